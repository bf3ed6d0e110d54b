"""Promise: pods, devices, endpoints and our own processes may go; requests do not fail and the status says why."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from e2e.cluster import wait_until
from e2e.demo import LONG
from e2e.fleet import DEMO, SYSTEM, Fleet
from e2e.load import under_load

pytestmark = pytest.mark.lab
BOSS = {"tools": [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}], "tool_choice": "none"}


def test_a_deleted_pod_is_replaced_and_routed_to_while_the_operator_is_stopped(fleet: Fleet) -> None:
    kubectl = fleet.cluster.kubectl
    kubectl("-n", SYSTEM, "scale", "deployment/modelfleet-operator", "--replicas=0")
    try:
        wait_until(
            lambda: not fleet.cluster.get("pods", namespace=SYSTEM, selector="app.kubernetes.io/component=operator")["items"], 180, "the operator to stop"
        )
        (old,) = fleet.pods("small")
        kubectl("-n", DEMO, "delete", "pod", old["metadata"]["name"], "--wait=true")
        wait_until(lambda: [p for p in fleet.pods("small") if _ready(p)], 180, "a replacement pod")
        answer = wait_until(lambda: _served_by(fleet, f"{DEMO}/small"), 180, "the replacement to be routed to")
        assert answer.flavor == "l4"
    finally:
        kubectl("-n", SYSTEM, "scale", "deployment/modelfleet-operator", "--replicas=1")
        kubectl("-n", SYSTEM, "rollout", "status", "deployment/modelfleet-operator", "--timeout=300s")


def test_a_lost_device_moves_the_boss_and_its_return_fails_no_request(fleet: Fleet) -> None:
    lab = _lab(fleet)
    with under_load(fleet, **BOSS) as seen:
        wait_until(lambda: seen.answers >= 3, 180, "first answers")
        lab.set_devices("h100", 0)
        try:
            fleet.cluster.kubectl("-n", DEMO, "delete", "pod", "-l", "modelfleet.dev/pool=boss,modelfleet.dev/flavor=h100", "--wait=false")
            wait_until(lambda: fleet.flavor("boss", "l4").get("ready") == 1, 270, "the boss to run on l4")
            assert fleet.flavor("boss", "h100")["reason"] == "NoMatchingNodes"
            assert "no node has devices of nvidia-h100-80gb" in fleet.flavor("boss", "h100")["message"]
            before = seen.flavors[f"{DEMO}/boss/l4"]
            wait_until(lambda: seen.flavors[f"{DEMO}/boss/l4"] > before, 180, "answers from l4")
        finally:
            lab.set_devices("h100", 1)
        fleet.settle()
        after = seen.flavors[f"{DEMO}/boss/h100"]
        wait_until(lambda: seen.flavors[f"{DEMO}/boss/h100"] > after, 180, "answers from h100 again")
    assert seen.failures == []


def test_with_all_pods_gone_the_endpoint_answers_priced_and_counted(fleet: Fleet) -> None:
    lab = _lab(fleet)
    with boss_without_devices(fleet):
        before = lab.provider.stats()["completion_tokens"]
        counted = fleet.counted_at_rest("modelfleet_router_usage_tokens_total", pool=f"{DEMO}/boss", flavor="burst", direction="output")
        answer = fleet.ask("What is a router?", stream=True, **BOSS)
        assert (answer.pool, answer.flavor) == (f"{DEMO}/boss", "burst")
        assert answer.cost_micro_usd is not None
        assert answer.cost_micro_usd > 0
        assert lab.provider.stats()["completion_tokens"] - before == answer.output_tokens
        usage = {"pool": f"{DEMO}/boss", "flavor": "burst", "direction": "output"}
        expected = counted + answer.output_tokens
        wait_until(
            lambda: fleet.counted("modelfleet_router_usage_tokens_total", **usage) == expected,
            180,
            f"our metrics to count {expected} tokens of the endpoint",
            explain=lambda: [s for s in fleet.router_metrics() if s.name == "modelfleet_router_usage_tokens_total"],
        )
        assert fleet.condition("modelpool", "boss", "Ready")["reason"] == "EndpointServing"


def test_a_wrong_key_is_a_clear_condition_and_the_next_candidate_serves(fleet: Fleet) -> None:
    right = _endpoint_secret(fleet)
    with boss_without_devices(fleet):
        _put_key(fleet, right, "not-the-key")
        try:
            wait_until(
                lambda: fleet.condition("modelpool", "boss", "EndpointsReachable").get("reason") == "KeyRefused", 180, "EndpointsReachable=False KeyRefused"
            )
            # a probe may know of the key before every Envoy has it; tools would keep `small` out
            answer = wait_until(lambda: _served_by(fleet, f"{DEMO}/small", LONG, max_tokens=8), 180, "the next candidate to serve")
            assert answer.attempts > 1
        finally:
            _put_key(fleet, right, None)
        wait_until(lambda: fleet.condition("modelpool", "boss", "EndpointsReachable").get("status") == "True", 270, "the endpoint to be reachable again")


@pytest.mark.parametrize("process", ["router", "operator"])
def test_sigkill_under_load_with_streams_fails_no_request(fleet: Fleet, process: str) -> None:
    with under_load(fleet, prompt="Tell a short story.") as seen:
        wait_until(lambda: seen.answers >= 3, 180, "first answers")
        for _ in range(3):
            wanted = seen.answers + 4
            _kill(fleet, process)
            wait_until(lambda n=wanted: seen.answers >= n, 180, "answers after the kill")
            wait_until(lambda: _pids(fleet, process), 270, f"a new {process} process")
            time.sleep(2)
    assert seen.failures == []
    if process == "operator":
        fleet.renew_operator()


def test_sigkill_of_the_operator_in_mid_reconcile_leaves_the_same_objects(fleet: Fleet) -> None:
    def objects() -> set[str]:
        lists = fleet.cluster.get("deployments,services", namespace=DEMO, selector="app.kubernetes.io/managed-by=modelfleet")["items"]
        return {f"{o['kind']}/{o['metadata']['name']}/{o['metadata']['uid']}" for o in lists}

    before = objects()
    for replicas in (2, 1):
        fleet.cluster.kubectl("-n", DEMO, "scale", "modelpool/small", f"--replicas={replicas}")
        _kill(fleet, "operator")
        wait_until(lambda r=replicas: sum(map(_ready, fleet.pods("small"))) == r, 360, f"small to have {replicas} ready pods after the kill")
    fleet.settle()
    assert objects() == before
    fleet.renew_operator()


def _ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def _served_by(fleet: Fleet, pool: str, prompt: str = "Hello.", max_tokens: int = 4) -> Any:
    answer = fleet.ask(prompt, max_tokens=max_tokens)
    return answer if answer.pool == pool else None


def _lab(fleet: Fleet) -> Any:
    assert fleet.cluster.lab is not None, "this promise is proven on the lab: run with CLUSTER=lab"
    return fleet.cluster.lab


class boss_without_devices:  # noqa: N801 reads as a phrase after `with`
    """h100 has no device and l4 only the one that `small` holds; the boss's pods are deleted."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.lab = fleet, _lab(fleet)

    def __enter__(self) -> None:
        try:
            self._take_away()
        except BaseException:
            self.__exit__()
            raise

    def _take_away(self) -> None:
        self.lab.set_devices("h100", 0)
        self.lab.set_devices("l4", 1)
        self.fleet.cluster.kubectl("-n", DEMO, "delete", "pod", "-l", "modelfleet.dev/pool=boss", "--wait=false")
        wait_until(
            lambda: self.fleet.condition("modelpool", "boss", "Ready").get("reason") == "EndpointServing",
            180,
            "the boss to be served by its endpoint",
            explain=lambda: f"{self.fleet.pool('boss').get('status')} {self.fleet.cluster.kubectl('get', 'pods,nodes', '-A', '-o', 'wide', check=False)}",
        )

        # the status is the operator's; the gateways hear of the pods by themselves
        wait_until(self._endpoint_serves, 180, "the gateways to ask the endpoint")

    def _endpoint_serves(self) -> bool:
        try:
            return self.fleet.ask("Hello.", max_tokens=4, **BOSS).flavor == "burst"
        except openai.APIError:
            return False

    def __exit__(self, *_: object) -> None:
        self.lab.set_devices("h100", 1)
        self.lab.set_devices("l4", 2)


def _endpoint_secret(fleet: Fleet) -> dict[str, Any]:
    ref = next(f["endpoint"]["authSecretRef"] for f in fleet.pool("boss")["spec"]["flavors"] if "endpoint" in f)
    return {**ref, "value": fleet.cluster.get("secret", ref["name"], DEMO)["data"][ref["key"]]}


def _put_key(fleet: Fleet, ref: dict[str, Any], key: str | None) -> None:
    value = ref["value"] if key is None else base64.b64encode(key.encode()).decode()
    fleet.cluster.kubectl("-n", DEMO, "patch", "secret", ref["name"], "--type=merge", "-p", json.dumps({"data": {ref["key"]: value}}))


def _pids(fleet: Fleet, process: str) -> list[int]:
    """Process ids, on this host, of `modelfleet <process>` in the pods of the fleet under test. A router's keeper is not the router."""
    component = {"router": "gateway", "operator": "operator", "teams": "teams"}[process]
    uids = [p["metadata"]["uid"] for p in fleet.cluster.get("pods", namespace=SYSTEM, selector=f"app.kubernetes.io/component={component}")["items"]]
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            cgroups = (entry / "cgroup").read_text()
        except OSError:
            continue
        if process.encode() in command and b"--keep" not in command and any(b"modelfleet" in part for part in command) and any(u in cgroups for u in uids):
            found.append(int(entry.name))
    return found


def _kill(fleet: Fleet, process: str) -> None:
    pids = wait_until(lambda: _pids(fleet, process), 180, f"a running {process}")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
