"""The teams process in the chart: where its calls go, where its journal lies, and keys that are made once and kept."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.charts.test_chart import NAMESPACE, container, helm, install, objects, pick, pod_template
from tests.support.apiserver import ApiServer

from modelfleet.core.render.labels import COMPONENT
from modelfleet.teamserver.settings import read_settings

LEAN = {"accelerators": {"install": False}}
KEYS = "/etc/modelfleet/grants"


def environment(rendered: list[dict[str, Any]], deployment: str, name: str) -> dict[str, str]:
    return {e["name"]: e.get("value", "") for e in container(rendered, deployment, name)["env"]}


def volume(rendered: list[dict[str, Any]], deployment: str, name: str) -> dict[str, Any]:
    return next(v for v in pod_template(rendered, deployment)["spec"]["volumes"] if v["name"] == name)


def test_one_writer_of_the_journal_and_time_to_end_calls() -> None:
    deployment = pick(objects(), "Deployment", "modelfleet-teams")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] == 90


def test_routers_find_the_process_by_the_labels_of_its_service() -> None:
    rendered = objects()
    service, pod = pick(rendered, "Service", "modelfleet-teams"), pod_template(rendered, "modelfleet-teams")
    assert service["metadata"]["labels"].items() >= {(COMPONENT, "teams"), ("app.kubernetes.io/part-of", "modelfleet")}
    assert pod["metadata"]["labels"].items() >= service["spec"]["selector"].items()
    (port,) = service["spec"]["ports"]
    (open_port,) = container(rendered, "modelfleet-teams", "teams")["ports"]
    assert (port["port"], port["targetPort"]) == (open_port["containerPort"], open_port["name"]) == (8090, "http")
    assert environment(rendered, "modelfleet-teams", "teams")["MODELFLEET_TEAMS_PORT"] == "8090", "Kubernetes would set it to tcp://..."


@pytest.mark.parametrize(
    ("release", "values", "url"),
    [
        ("modelfleet", {}, "http://$(MODELFLEET_GATEWAY_SERVICE_HOST):80"),
        ("my-fleet", {"gateway": {"service": {"port": 8000}}}, "http://$(MY_FLEET_MODELFLEET_GATEWAY_SERVICE_HOST):8000"),
        ("modelfleet", {"teams": {"gatewayURL": "https://gateway.example"}}, "https://gateway.example"),
    ],
)
def test_calls_of_roles_go_to_the_gateways_service_without_dns(release: str, values: dict[str, Any], url: str) -> None:
    done = helm("template", release, "charts/modelfleet", "-n", NAMESPACE, "--kube-version", "1.34.0", values=values)
    rendered = [o for o in yaml.safe_load_all(done.stdout) if o]
    name = "modelfleet" if release == "modelfleet" else f"{release}-modelfleet"
    assert environment(rendered, f"{name}-teams", "teams")["MODELFLEET_GATEWAY_URL"] == url
    assert pick(rendered, "Service", f"{name}-gateway")["spec"]["ports"][0]["port"] == values.get("gateway", {}).get("service", {}).get("port", 80)


def test_the_process_understands_what_the_chart_tells_it() -> None:
    env = environment(objects({"teams": {"logLevel": "debug"}}), "modelfleet-teams", "teams")
    told = {name: re.sub(r"\$\([A-Z_]+\)", "10.96.0.9", value) for name, value in env.items()}  # as the kubelet does
    settings = read_settings(told)
    assert (settings.gateway_url, settings.http_port, settings.log_level) == ("http://10.96.0.9:80", 8090, "debug")
    assert str(settings.grant_keys) == KEYS
    grace = pod_template(objects(), "modelfleet-teams")["spec"]["terminationGracePeriodSeconds"]
    assert settings.drain + 20 < grace, "runs get their time before the kubelet kills"


def test_the_journal_lies_in_the_pod_or_on_a_claim() -> None:
    assert volume(objects(), "modelfleet-teams", "journal")["emptyDir"] == {"sizeLimit": "1Gi"}
    kept = objects({"teams": {"journal": {"persistence": {"enabled": True, "size": "5Gi", "storageClass": "fast"}}}})
    claim = pick(kept, "PersistentVolumeClaim", "modelfleet-teams-journal")["spec"]
    assert volume(kept, "modelfleet-teams", "journal")["persistentVolumeClaim"]["claimName"] == "modelfleet-teams-journal"
    assert (claim["accessModes"], claim["storageClassName"], claim["resources"]["requests"]["storage"]) == (["ReadWriteOnce"], "fast", "5Gi")
    default = pick(objects({"teams": {"journal": {"persistence": {"enabled": True}}}}), "PersistentVolumeClaim", "modelfleet-teams-journal")
    assert "storageClassName" not in default["spec"], "absent asks for the cluster's default; an empty one would ask for none"
    mounts = {m["name"]: m["mountPath"] for m in container(kept, "modelfleet-teams", "teams")["volumeMounts"]}
    assert environment(kept, "modelfleet-teams", "teams")["MODELFLEET_JOURNAL"].startswith(mounts["journal"] + "/")


@pytest.mark.parametrize("values", [{}, {"grants": {"existingSecret": "my-keys"}}], ids=["made", "given"])
def test_router_and_teams_alone_have_the_keys_and_read_only(values: dict[str, Any]) -> None:
    rendered = objects(values)
    for deployment, name in (("modelfleet-teams", "teams"), ("modelfleet-gateway", "router")):
        assert environment(rendered, deployment, name)["MODELFLEET_GRANT_KEYS_DIR"] == KEYS
        mount = next(m for m in container(rendered, deployment, name)["volumeMounts"] if m["name"] == "grants")
        assert mount == {"name": "grants", "mountPath": KEYS, "readOnly": True}
        assert volume(rendered, deployment, "grants")["secret"]["secretName"] == values.get("grants", {}).get("existingSecret", "modelfleet-grants")
    everywhere = {
        c["name"]
        for o in rendered
        if o["kind"] == "Deployment"
        for c in o["spec"]["template"]["spec"]["containers"]
        for m in c["volumeMounts"]
        if m["name"] == "grants"
    }
    assert everywhere == {"teams", "router"}
    assert volume(rendered, "modelfleet-gateway", "grants")["secret"]["optional"], "a gateway serves without keys"
    assert bool([o for o in rendered if o["kind"] == "Secret"]) is not bool(values)


def test_without_teams_nothing_of_them_is_left() -> None:
    rendered = objects({"teams": {"enabled": False}})
    assert not [o["metadata"]["name"] for o in rendered if o["metadata"]["name"].endswith(("-teams", "-grants"))]
    assert "MODELFLEET_GRANT_KEYS_DIR" not in environment(rendered, "modelfleet-gateway", "router")
    assert "grants" not in str(pod_template(rendered, "modelfleet-gateway"))


@pytest.fixture
def installed(apiserver_with_crds: ApiServer) -> Iterator[ApiServer]:
    apiserver_with_crds.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))
    install(apiserver_with_crds, LEAN)
    yield apiserver_with_crds
    helm("uninstall", "modelfleet", "-n", NAMESPACE, "--ignore-not-found", kubeconfig=apiserver_with_crds.kubeconfig)


def test_the_key_is_made_once_kept_on_upgrades_and_rotated_by_hand(installed: ApiServer) -> None:
    def keys() -> dict[str, str]:
        data = installed.get("secret", "modelfleet-grants", "-n", NAMESPACE)["data"]
        return {name: base64.b64decode(value).decode() for name, value in data.items()}

    first = keys()
    assert list(first) == ["current"]
    assert len(first["current"]) == 48
    install(installed, {**LEAN, "gateway": {"replicas": 1}})
    assert keys() == first
    old, new = first["current"], "n" * 48
    for patch, left in (  # docs/security.md
        ({"stringData": {"next": new}}, {"current": old, "next": new}),
        ({"stringData": {"current": new, "previous": old}, "data": {"next": None}}, {"current": new, "previous": old}),
        ({"data": {"previous": None}}, {"current": new}),
    ):
        installed.kubectl("patch", "secret", "modelfleet-grants", "-n", NAMESPACE, "-p", json.dumps(patch), check=True)
        install(installed, LEAN)
        assert keys() == left
    helm("uninstall", "modelfleet", "-n", NAMESPACE, kubeconfig=installed.kubeconfig)
    install(installed, LEAN)
    assert keys().keys() == {"current"}
    assert keys()["current"] not in (old, new)
