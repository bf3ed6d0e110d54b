"""Promise: tokens come out, from the model the policy names, on the flavor the status names, counted as the server counted them."""

from __future__ import annotations

import pytest

from e2e.cluster import wait_until
from e2e.demo import LONG
from e2e.fleet import DEMO, Answer, Fleet

pytestmark = pytest.mark.lab
TOOLS = {"tools": [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}], "tool_choice": "none"}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    ("prompt", "options", "pool"),
    [("Name three colours.", {}, "small"), (LONG, {"max_tokens": 8}, "boss"), ("What time is it?", TOOLS, "boss")],
    ids=["short", "long", "tools"],
)
def test_the_policy_names_the_pool_and_the_status_names_the_flavor(fleet: Fleet, prompt: str, options: dict[str, object], pool: str, stream: bool) -> None:
    answer = fleet.ask(prompt, stream=stream, **options)
    assert answer.pool == f"{DEMO}/{pool}"
    assert fleet.flavor(pool, answer.flavor)["ready"] >= 1
    assert answer.flavor == fleet.pool(pool)["spec"]["flavors"][0]["name"]
    assert answer.output_tokens > 0
    assert answer.text
    assert answer.attempts == 1
    assert answer.decision["policy"].startswith(f"{DEMO}/assistant")
    assert answer.cost_micro_usd is not None
    assert answer.cost_micro_usd > 0


def test_usage_in_our_metrics_is_what_the_server_reported(fleet: Fleet) -> None:
    def counted(direction: str) -> float:
        return fleet.counted("modelfleet_router_usage_tokens_total", pool=f"{DEMO}/small", direction=direction, source="reported")

    fleet.counted_at_rest("modelfleet_router_usage_tokens_total", pool=f"{DEMO}/small", direction="output", source="reported")
    before = counted("input"), counted("output")
    answers: list[Answer] = [fleet.ask(f"Say {n}.", stream=n % 2 == 0) for n in range(6)]
    expected = before[0] + sum(a.input_tokens for a in answers), before[1] + sum(a.output_tokens for a in answers)
    wait_until(
        lambda: (counted("input"), counted("output")) == expected, 180, f"metrics to reach {expected}", explain=lambda: (counted("input"), counted("output"))
    )


def test_the_header_matched_canary_splits_by_weight_and_sticks_to_the_session(fleet: Fleet) -> None:
    rule = next(r for r in fleet.cluster.get("routingpolicy", "assistant", DEMO)["spec"]["rules"] if r.get("weights"))
    header = {h["name"]: h["value"] for h in rule["match"]["headers"]}
    pools = {c["name"]: c["poolRef"]["name"] for c in fleet.cluster.get("routingpolicy", "assistant", DEMO)["spec"]["candidates"]}
    allowed = {f"{DEMO}/{pools[w['candidate']]}" for w in rule["weights"] if w["percent"] > 0}
    for session in ("one", "two", "three"):
        answers = [fleet.ask("Hello.", headers={**header, "x-modelfleet-session": session}, max_tokens=4) for _ in range(3)]
        assert {a.decision["rule"] for a in answers} == {rule["name"]}
        assert len({a.pool for a in answers}) == 1
        assert answers[0].pool in allowed


def test_an_unknown_model_is_404_and_names_the_entrypoints(fleet: Fleet) -> None:
    import openai

    with pytest.raises(openai.NotFoundError, match="auto"):
        fleet.ask("Hello.", model="nobody")
