"""The example fleet is valid as it stands, and its parts refer to each other and to the catalogue."""

from __future__ import annotations

import copy
from typing import Any

import yaml
from tests.support.apiserver import CHECKOUT, ApiServer

from modelfleet.api.v1alpha1 import ModelPool, RoutingPolicy

FOLDER = CHECKOUT / "policies" / "examples" / "fleet"
OBJECTS = [o for f in sorted(FOLDER.glob("*.yaml")) for o in yaml.safe_load_all(f.read_text()) if o]


def of(kind: str) -> dict[str, dict[str, Any]]:
    return {o["metadata"]["name"]: copy.deepcopy(o) for o in OBJECTS if o["kind"] == kind}


def test_the_api_server_accepts_it_as_it_is(apiserver_with_crds: ApiServer) -> None:
    namespace = of("Namespace")["demo"]
    namespace["metadata"]["name"] = "fleet-example"
    apiserver_with_crds.apply(yaml.safe_dump(namespace))
    rest = [copy.deepcopy(o) for o in OBJECTS if o["kind"] != "Namespace"]
    for o in rest:
        assert o["metadata"]["namespace"] == "demo"
        o["metadata"]["namespace"] = "fleet-example"
    done = apiserver_with_crds.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", input=yaml.safe_dump_all(rest))
    assert done.returncode == 0, done.stderr
    assert "violate" not in done.stderr


def test_the_namespace_enforces_the_restricted_profile() -> None:
    assert of("Namespace")["demo"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_pools_use_classes_of_the_catalogue_and_a_key_that_is_there() -> None:
    classes = {o["metadata"]["name"] for f in (CHECKOUT / "policies" / "accelerators").glob("*.yaml") for o in yaml.safe_load_all(f.read_text()) if o}
    pools = {name: ModelPool.parse(raw) for name, raw in of("ModelPool").items()}
    assert {name: [f.name for f in p.spec.flavors] for name, p in pools.items()} == {"small": ["l4", "cpu"], "boss": ["h100", "l4", "burst"]}
    for pool in pools.values():
        for flavor in pool.spec.flavors:
            if flavor.endpoint is None:
                assert flavor.accelerator_class in classes
                assert flavor.capacity is not None
                assert flavor.capacity.tokens_per_second, "without it there is no price per token"
            else:
                assert flavor.endpoint.auth_secret_ref is not None
                secret = of("Secret")[flavor.endpoint.auth_secret_ref.name]
                assert flavor.endpoint.auth_secret_ref.key in secret["stringData"]


def test_the_policy_routes_short_requests_and_a_canary_to_pools_that_exist() -> None:
    policy = RoutingPolicy.model_validate(of("RoutingPolicy")["assistant"])
    assert {c.pool_ref.name for c in policy.spec.candidates} == set(of("ModelPool"))
    assert [e.name for e in policy.spec.entrypoints] == ["auto"]
    canary, short = policy.spec.rules or []
    assert canary.match.headers is not None
    assert [(h.name, h.value) for h in canary.match.headers] == [("x-canary", "1")]
    assert canary.weights is not None
    assert (short.match.tools, short.candidates) == ("Absent", ["small", "boss"])
    assert policy.spec.default.chain == ["boss", "small"]
