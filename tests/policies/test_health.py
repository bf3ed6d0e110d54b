"""Health as Flux (kstatus) and Argo CD (our Lua) compute it, on recorded objects of every kind in every state.

The objects are files under `recorded/`; `UPDATE_GOLDEN=1 pytest tests/policies/test_health.py` rewrites them from what the planner answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.policies.judges import ArgoCD, kstatus
from tests.policies.recording import Object, class_states, policy_states, pool_states, team_states
from tests.support.apiserver import CHECKOUT, ApiServer
from tests.support.golden import agrees

from modelfleet.api.v1alpha1 import KINDS

CONFIG = CHECKOUT / "policies" / "gitops" / "argocd-health.yaml"
RECORDED = Path(__file__).parent / "recorded"
ARGO = ArgoCD(CONFIG)

GOING = ("InProgress", "Progressing")
WELL = ("Current", "Healthy")
BROKEN = ("Failed", "Degraded")
LEAVING = ("Terminating", "Progressing")
# state -> what Flux and what Argo CD say of it
TABLE: dict[str, dict[str, tuple[str, str]]] = {
    "ModelPool": {
        "new": GOING,
        "progressing": GOING,
        "ready": WELL,
        "changed": GOING,
        "rolling-out": GOING,
        "degraded": GOING,  # a replica is on its way again
        "scaling-to-zero": GOING,
        "scaled-to-zero": WELL,
        "stalled": BROKEN,
        "invalid": BROKEN,
        "endpoint-serving": WELL,
        "endpoint-down": GOING,  # endpoints come back by themselves
        "paused": ("Current", "Suspended"),
        "paused-and-changed": ("Current", "Suspended"),  # who waits for a person is not on its way
        "deleting": LEAVING,
    },
    "AcceleratorClass": {"new": GOING, "ready": WELL, "without-nodes": WELL, "changed": GOING, "invalid": BROKEN, "deleting": LEAVING},
    "RoutingPolicy": {
        "new": GOING,
        "reported-before-seen": GOING,
        "progressing": GOING,
        "without-gateway": GOING,
        "ready": WELL,
        "changed": GOING,
        "stalled": BROKEN,
        "secret-missing": BROKEN,
        "rejected": BROKEN,
        "name-taken": BROKEN,
        "invalid": BROKEN,
        "deleting": LEAVING,
    },
    "AgentTeam": {
        "new": GOING,
        "progressing": GOING,
        "ready": WELL,
        "changed": GOING,
        "suspended": ("Current", "Suspended"),
        "role-unavailable": GOING,
        "runtime-unavailable": GOING,
        "stalled": BROKEN,
        "price-unknown": BROKEN,
        "budget-too-small": BROKEN,
        "strategy-refused": BROKEN,
        "invalid": BROKEN,
        "deleting": LEAVING,
    },
}
STATES: dict[str, dict[str, Object]] = {
    "ModelPool": pool_states(),
    "AcceleratorClass": class_states(),
    "RoutingPolicy": policy_states(),
    "AgentTeam": team_states(),
}
CASES = [(kind, state) for kind, states in TABLE.items() for state in states]


def recorded(kind: str, state: str) -> Any:
    return yaml.safe_load((RECORDED / f"{kind.lower()}-{state}.yaml").read_text())


def test_every_kind_and_every_recorded_state_is_in_the_table() -> None:
    assert set(TABLE) == set(STATES) == {k.KIND for k in KINDS}
    assert {kind: set(states) for kind, states in STATES.items()} == {kind: set(states) for kind, states in TABLE.items()}
    assert {p.stem for p in RECORDED.glob("*.yaml")} == {f"{kind.lower()}-{state}" for kind, state in CASES}


@pytest.mark.parametrize(("kind", "state"), CASES)
def test_the_recorded_object_is_what_the_planner_answers_today(kind: str, state: str) -> None:
    agrees(RECORDED / f"{kind.lower()}-{state}.yaml", STATES[kind][state])


@pytest.mark.parametrize(("kind", "state"), CASES)
def test_flux_and_argo_cd_see_what_is_true(kind: str, state: str) -> None:
    obj = recorded(kind, state)
    status, message = ARGO.health(obj)
    assert (kstatus(obj), status) == TABLE[kind][state]
    assert message, "a person who looks at Argo CD is told why"


@pytest.mark.parametrize(("kind", "state"), CASES)
def test_no_object_is_on_its_way_and_stalled_at_once(kind: str, state: str) -> None:
    found = {c["type"]: c["status"] for c in (recorded(kind, state).get("status") or {}).get("conditions", [])}
    assert (found.get("Reconciling"), found.get("Stalled")) != ("True", "True")
    assert not found or "Ready" in found, "kstatus would take it for Current"


def test_an_object_without_a_status_is_not_healthy_to_argo_cd() -> None:
    for kind in TABLE:
        bare = recorded(kind, "ready")
        del bare["status"]
        assert ARGO.health(bare)[0] == "Progressing"


def test_a_pool_that_serves_less_than_promised_and_waits_for_nothing_is_degraded() -> None:
    obj = recorded("ModelPool", "ready")
    for condition in obj["status"]["conditions"]:
        if condition["type"] == "Degraded":
            condition |= {"status": "True", "reason": "TooFewReady", "message": "replicas that do not serve: 1 of 2"}
    assert ARGO.health(obj) == ("Degraded", "replicas that do not serve: 1 of 2")


def test_the_api_server_takes_the_config_map_whole_and_says_of_a_new_object_that_nobody_looked(apiserver_with_crds: ApiServer) -> None:
    server = apiserver_with_crds
    server.kubectl("create", "namespace", "argocd", check=True)
    server.kubectl("create", "configmap", "argocd-cm", "-n", "argocd", "--from-literal=url=https://argocd.example.com", check=True)
    server.kubectl("patch", "configmap", "argocd-cm", "-n", "argocd", "--type", "merge", "--patch-file", CONFIG, check=True)
    data = server.get("configmap", "argocd-cm", "-n", "argocd")["data"]
    assert data.pop("url") == "https://argocd.example.com"
    assert data == ARGO.scripts
    assert len(set(data.values())) == 1
    server.kubectl("create", "namespace", "health", check=True)
    pool = recorded("ModelPool", "new")
    pool["metadata"] = {"name": "unseen", "namespace": "health"}
    del pool["status"]
    server.apply(yaml.safe_dump(pool))
    stored = server.get("modelpool", "unseen", "-n", "health")
    assert stored["status"] == {"observedGeneration": -1}
    assert (kstatus(stored), ARGO.health(stored)[0]) == GOING
