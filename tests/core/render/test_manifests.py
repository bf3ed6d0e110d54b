"""Children as the API server stores them: rendered, applied, read back, and nothing left to write."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from tests.support.apiserver import ApiServer
from tests.support.builders import a_class, a_pool

from modelfleet.api.v1alpha1 import ModelPool
from modelfleet.core.plan import Manifest
from modelfleet.core.render.deployment import deployment
from modelfleet.core.render.naming import child_name
from modelfleet.core.render.quantity import canonical_quantity
from modelfleet.core.render.service import service
from modelfleet.core.world import Defaults
from modelfleet.kube.records import workload_of


def children(pool: ModelPool, index: int = 0, **defaults: Any) -> tuple[Manifest, Manifest]:
    accelerator = a_class(
        "h100",
        tolerations=[{"key": "gpu", "operator": "Exists"}, {"key": "t", "operator": "Equal", "value": "", "effect": "NoSchedule"}, {"operator": "Exists"}],
    )
    engine, flavor = pool.spec.engine, pool.spec.flavors[index]
    assert engine is not None
    return deployment(pool, engine, flavor, accelerator, replicas=0, defaults=Defaults(**defaults)), service(pool, engine, flavor)


def container(manifest: Manifest) -> Any:
    return manifest["spec"]["template"]["spec"]["containers"][0]


ENGINES = {
    "llamacpp": a_pool("llamacpp", "rendered").on("h100", "h100", capacity={"concurrency": 4}).with_spec(model={"name": "m", "source": "hf://org/repo:Q4_0"}),
    "vllm": a_pool("vllm", "rendered")
    .on("h100", "h100", devices=1000)
    .with_spec(
        model={"name": "org/m", "source": "pvc://claim/some/path"},
        engine={
            "type": "VLLM",
            "resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"cpu": "2000m", "memory": "1.5Gi", "ephemeral-storage": "1000M"}},
        },
    ),
    "custom": a_pool("custom", "rendered")
    .on("h100", "h100")
    .with_spec(
        engine={
            "type": "Custom",
            "image": "x.example/y:1",
            "port": 9000,
            "healthPath": "/ready",
            "env": [{"name": "A", "value": ""}, {"name": "HOME", "value": "/x"}],
        },
        drain={"timeout": "0s"},
    ),
    "1.dotted": a_pool("1.dotted", "rendered").on("h100", "h100").with_spec(drain={"timeout": "1500ms"}),
}


@pytest.mark.parametrize("case", sorted(ENGINES))
def test_the_server_stores_what_we_render(apiserver_with_crds: ApiServer, case: str) -> None:
    apiserver_with_crds.apply(
        yaml.safe_dump(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "rendered", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
        )
    )
    for manifest in children(ENGINES[case].build()):
        text = yaml.safe_dump(manifest)
        applied = apiserver_with_crds.kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=modelfleet", "-f", "-", input=text)
        assert applied.returncode == 0, applied.stderr
        assert "Warning" not in applied.stderr
        stored = apiserver_with_crds.get(manifest["kind"], manifest["metadata"]["name"], "-n", "rendered")
        assert list(differences(manifest, stored)) == []
        again = apiserver_with_crds.kubectl("apply", "--server-side", "--field-manager=modelfleet", "-o", "yaml", "-f", "-", input=text)
        assert yaml.safe_load(again.stdout)["metadata"]["resourceVersion"] == stored["metadata"]["resourceVersion"]


def differences(wanted: Any, stored: Any, path: str = "") -> Any:
    """Strictly: everything wanted is stored in the same words; lists have the same length."""
    if isinstance(wanted, dict):
        for key, value in wanted.items():
            if key not in (stored or {}):
                yield f"{path}.{key} is not stored"
            else:
                yield from differences(value, stored[key], f"{path}.{key}")
    elif isinstance(wanted, list):
        if len(wanted) != len(stored):
            yield f"{path} has {len(stored)} items"
        for index, (w, s) in enumerate(zip(wanted, stored, strict=False)):
            yield from differences(w, s, f"{path}[{index}]")
    elif wanted != stored:
        yield f"{path}: {wanted!r} is stored as {stored!r}"


def test_the_server_stores_a_deployment_that_replaces_in_place(apiserver_with_crds: ApiServer) -> None:
    apiserver_with_crds.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "replaced"}}))
    pool = a_pool("boss", "replaced").wants("h100").build()
    assert pool.spec.engine is not None
    for in_place in (False, True, False):
        manifest = deployment(pool, pool.spec.engine, pool.spec.flavors[0], a_class("h100"), replicas=0, defaults=Defaults(), in_place=in_place)
        command = ("apply", "--server-side", "--field-manager=modelfleet", "-f", "-")
        applied = apiserver_with_crds.kubectl(*command, input=yaml.safe_dump(manifest))
        assert applied.returncode == 0, applied.stderr
        stored = apiserver_with_crds.get("Deployment", "boss-h100", "-n", "replaced")
        assert list(differences(manifest, stored)) == []
        observed = workload_of(stored)
        assert observed is not None
        assert observed.in_place is in_place


def test_command_lines() -> None:
    assert container(children(ENGINES["llamacpp"].build())[0])["args"] == [
        "-hf", "org/repo:Q4_0", "--alias", "m", "--host", "0.0.0.0", "--port", "8080", "--metrics", "--parallel", "4",
    ]  # fmt: skip
    assert container(children(ENGINES["vllm"].build())[0])["args"] == [
        "--model", "/models/some/path", "--served-model-name", "org/m", "--host", "0.0.0.0", "--port", "8000",
    ]  # fmt: skip
    assert "args" not in container(children(ENGINES["custom"].build())[0])
    hub = a_pool("p").on("f", "h100").with_spec(model={"name": "m", "source": "hf://org/repo:tag"}, engine={"type": "VLLM", "args": ["--a"]})
    assert container(children(hub.build())[0])["args"][:2] == ["--model", "org/repo"]
    assert container(children(hub.build())[0])["args"][-1] == "--a"


def test_images_from_the_flavor_then_the_pool_then_the_installation() -> None:
    own = {"image": "x.example/flavor:1", "args": ["--b"], "env": [{"name": "HOME", "value": "/h"}]}
    pool = a_pool("p").on("a", "h100", engine=own).on("b", "h100").with_spec(engine={"type": "LlamaCpp", "image": "x.example/pool:1", "args": ["--a"]}).build()
    first, second = container(children(pool)[0]), container(children(pool, 1)[0])
    assert (first["image"], second["image"]) == ("x.example/flavor:1", "x.example/pool:1")
    assert first["args"][-2:] == ["--a", "--b"]
    assert {"name": "HOME", "value": "/h"} in first["env"]
    plain = a_pool("p").wants("h100").build()
    assert container(children(plain, images={"LlamaCpp": "x.example/default:1"})[0])["image"] == "x.example/default:1"


def test_where_nodes_may_not_be_labelled_pods_select_the_exact_labels() -> None:
    pool = a_pool("p").wants("h100").build()
    assert children(pool)[0]["spec"]["template"]["spec"]["nodeSelector"] == {"modelfleet.dev/accelerator-class": "h100"}
    assert children(pool, label_nodes=False)[0]["spec"]["template"]["spec"]["nodeSelector"] == {"device": "h100"}


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("1000m", "1"), ("1500m", "1500m"), ("0.5", "500m"), ("1000", "1k"), ("1024", "1024"), ("1024Mi", "1Gi"), ("1.5Gi", "1536Mi"), ("0.5Ki", "512"),
        ("1000M", "1G"), ("0", "0"), ("0Mi", "0"), ("0.0001", "100u"), ("100k", "100k"), ("1500Ki", "1500Ki"),
    ],
)  # fmt: skip
def test_quantities(text: str, stored: str) -> None:
    assert canonical_quantity(text) == stored


def test_what_is_no_quantity_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        canonical_quantity("lots")


def test_names_fit_and_differ() -> None:
    assert child_name("boss", "h100") == "boss-h100"
    odd = {child_name("a" * 40, "b" * 30), child_name("a" * 40, "b" * 29 + "c"), child_name("7b", "x"), child_name("a.b", "x"), child_name("a-b", "x")}
    assert len(odd) == 5
    assert all(len(n) <= 63 and n[0].isalpha() and "." not in n for n in odd)
