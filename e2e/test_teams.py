"""Promise: a team is called like a model, pays for each call within its budget, and survives its runtime's death; nobody else uses its doors."""

from __future__ import annotations

import threading
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from e2e.cluster import wait_until
from e2e.demo import TEAM_QUESTION, document
from e2e.fleet import DEMO, SYSTEM, Fleet
from e2e.test_faults import _kill, _pids

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]
TEAM = f"{DEMO}/readers"


def test_a_team_answers_and_its_account_is_the_sum_of_its_calls(fleet: Fleet) -> None:
    used = {"pool": f"{DEMO}/small", "direction": "output"}
    before = fleet.counted_at_rest("modelfleet_router_usage_tokens_total", **used)
    answer = fleet.ask_team(document(), TEAM_QUESTION)
    spent, reader, boss = answer.spent, answer.role("reader"), answer.role("boss")
    assert answer.model == TEAM
    assert answer.text
    assert spent["state"] in ("Succeeded", "PartiallySucceeded")
    assert reader["calls"] >= spent["report"]["items"] >= 4
    assert boss["calls"] >= 1, "one, and what its role retried"
    assert 0 < boss["prompt_tokens"] < answer.document_tokens
    assert spent["cost_micro_usd"] == reader["cost_micro_usd"] + boss["cost_micro_usd"] > 0
    assert spent["cost_micro_usd"] + spent["budget_left_micro_usd"] == 20_000
    if not spent["usageAssumed"]:
        expected = before + reader["completion_tokens"]
        wait_until(
            lambda: fleet.counted("modelfleet_router_usage_tokens_total", **used) == expected,
            180,
            f"the routers to have counted the readers' tokens, {expected}",
            explain=lambda: fleet.counted("modelfleet_router_usage_tokens_total", **used),
        )


def test_a_run_outlives_its_runtime(fleet: Fleet) -> None:
    body = {"model": TEAM, "messages": [{"role": "user", "content": document()}, {"role": "user", "content": TEAM_QUESTION}]}
    done, key = succeeded(fleet), f"outlives-{uuid4().hex[:8]}"  # a key that an earlier run used on this cluster would be answered with that run

    def post() -> httpx.Response:
        return httpx.post(f"{fleet.gateway}/v1/chat/completions", json=body, headers={"idempotency-key": key}, timeout=600)

    first = threading.Thread(target=lambda: _quietly(post), daemon=True)
    first.start()
    wait_until(lambda: succeeded(fleet) >= done + 2, 450, "two calls of the run to be answered", every=0.2)
    _kill(fleet, "teams")
    wait_until(lambda: _pids(fleet, "teams"), 270, "a new runtime")
    wait_until(lambda: fleet.condition("agentteam", "readers", "Programmed").get("status") == "True", 180, "the team to be programmed")

    def joined() -> dict[str, Any] | None:
        answer = _quietly(post)
        return answer.json() if answer is not None and answer.status_code == 200 else None

    answer = wait_until(joined, 300, "the run to be joined by its key", every=2)
    spent = answer["modelfleet"]
    reader = next(r for r in spent["byRole"] if r["role"] == "reader")
    assert spent["state"] in ("Succeeded", "PartiallySucceeded")
    assert spent["report"]["items"] <= reader["calls"] <= 2 * spent["report"]["items"]
    assert spent["cost_micro_usd"] <= 20_000
    first.join(timeout=5)


def test_the_doors_of_a_team_open_to_grants_alone(fleet: Fleet) -> None:
    for target in (f"pool:{DEMO}/small", f"pool:{DEMO}/boss"):
        for headers in ({}, {"x-modelfleet-grant": "v1.e30.AAAA"}, {"x-modelfleet-caller": "readers"}):
            body = {"model": target, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4}
            answer = httpx.post(f"{fleet.gateway}/v1/chat/completions", json=body, headers=headers, timeout=120)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "GrantInvalid")


def succeeded(fleet: Fleet) -> float:
    """Calls that the runtime saw answered since it started."""
    for pod in fleet.cluster.get("pods", namespace=SYSTEM, selector="app.kubernetes.io/component=teams")["items"]:
        text = httpx.get(f"http://{pod['status']['podIP']}:8090/metrics", timeout=60).text
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        return sum(s.value for s in samples if s.name == "modelfleet_team_calls_total" and s.labels["outcome"] == "Succeeded")
    return 0.0


def _quietly(post: Any) -> httpx.Response | None:
    try:
        return post()  # type: ignore[no-any-return]
    except httpx.HTTPError:
        return None
