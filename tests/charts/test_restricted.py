"""Every pod of the product is admitted to a namespace that enforces the restricted profile: those of the chart, and the model servers of every engine."""

from __future__ import annotations

import copy
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml
from tests.charts.test_chart import OVERRIDES, objects, pod_template
from tests.core.render.test_manifests import ENGINES, children
from tests.support.apiserver import ApiServer

pytestmark = pytest.mark.real

NAMESPACE = "restricted"


@pytest.fixture(scope="module")
def restricted(apiserver: ApiServer) -> ApiServer:
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    apiserver.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}))
    return apiserver


def admit(server: ApiServer, template: dict[str, Any]) -> CompletedProcess[str]:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": template["metadata"]["labels"], "name": "it", "namespace": NAMESPACE}}
    return server.kubectl("create", "--dry-run=server", "-f", "-", input=yaml.safe_dump({**pod, "spec": template["spec"]}))


@pytest.mark.parametrize("values", [{}, OVERRIDES], ids=["defaults", "overrides"])
@pytest.mark.parametrize("component", ["operator", "gateway", "teams"])
def test_pods_of_the_chart_are_admitted(restricted: ApiServer, component: str, values: dict[str, Any]) -> None:
    done = admit(restricted, pod_template(objects(values), f"modelfleet-{component}"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("engine", ENGINES)
def test_model_servers_are_admitted(restricted: ApiServer, engine: str) -> None:
    done = admit(restricted, children(ENGINES[engine].build())[0]["spec"]["template"])
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("component", ["operator", "gateway", "teams"])
def test_none_gets_more_than_the_profile_asks_to_give_up(component: str) -> None:
    spec = pod_template(objects(), f"modelfleet-{component}")["spec"]
    assert spec["securityContext"]["runAsUser"] > 0
    for container in spec["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True, container["name"]
        assert container["resources"]["limits"]["memory"], container["name"]
        written = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
        assert written <= {"/tmp", "/run/modelfleet", "/var/lib/modelfleet"}, container["name"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda pod, c: pod["securityContext"].update(runAsUser=0, runAsNonRoot=False), "runAsNonRoot"),
        (lambda pod, c: pod["securityContext"].pop("seccompProfile"), "seccompProfile"),
        (lambda pod, c: c["securityContext"].pop("allowPrivilegeEscalation"), "allowPrivilegeEscalation"),
        (lambda pod, c: c["securityContext"].pop("capabilities"), "capabilities"),
        (lambda pod, c: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}}), "hostPath"),
    ],
    ids=["root", "seccomp", "escalation", "capabilities", "hostpath"],
)
def test_a_pod_that_asks_for_more_is_refused_there(restricted: ApiServer, change: Any, named: str) -> None:
    template = copy.deepcopy(pod_template(objects(), "modelfleet-teams"))
    change(template["spec"], template["spec"]["containers"][0])
    done = admit(restricted, template)
    assert done.returncode != 0
    assert named in done.stderr
