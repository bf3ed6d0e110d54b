"""Percentiles, what is added, verdicts and the page, on figures that are made up."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from e2e.bench import objects
from e2e.bench.contest import Contestant, _good
from e2e.bench.figures import across, added, calls_per_minute, noise, per_cpu_second, percentile, spread, summary
from e2e.bench.goals import Goal, goals, missed, number
from e2e.bench.litellm import settings
from e2e.bench.load import Answer, answers
from e2e.bench.machine import cpu_model
from e2e.bench.page import PREFACE, section, two_commands, with_run
from e2e.bench.upstream import bootstrap
from e2e.lab.binaries import ASKED_FOR, MODULES, binary
from e2e.lab.steps import LabError

NOON = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([3, 1, 2], 0.5, 2), ([1, 2, 3, 4], 0.5, 2), ([5], 0.99, 5), (range(1, 201), 0.99, 198), (range(1, 101), 1.0, 100), ([1, 9], 0, 1)],
)
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(values, share, expected) -> None:
    assert percentile(list(values), share) == expected


def test_no_values_have_no_figures() -> None:
    for function in (lambda: percentile([], 0.5), lambda: spread([]), lambda: summary([])):
        with pytest.raises(ValueError, match="no values"):
            function()


def test_spread_and_median_over_blocks() -> None:
    assert spread([10.0]) == 0.0
    assert spread([0.0, 0.0]) == 0.0
    assert across([9.0, 10.0, 12.0]) == {"median": 10.0, "least": 9.0, "greatest": 12.0, "spread": 0.3}


def test_what_is_added_is_taken_within_the_block() -> None:
    blocks = [{"direct": {"p50": 1.0}, "decided": {"p50": 2.0}}, {"direct": {"p50": 3.0}, "decided": {"p50": 3.5}}]
    assert added(blocks, "decided", "p50") == across([1.0, 0.5])
    assert added(blocks, "litellm", "p50") is None
    assert added([], "decided", "p50") is None
    assert added([blocks[0], {"direct": {"p50": 1.0}}], "decided", "p50") is None


def test_answers_per_second_of_cpu_of_all_its_processes() -> None:
    blocks = [{"decided": {"good": 1000, "cpu": {"envoy": 0.5, "router": 0.5}}}, {"decided": {"good": 3000, "cpu": {"envoy": 1.0, "router": 1.0}}}]
    assert per_cpu_second(blocks, "decided") == across([1000.0, 1500.0])
    assert per_cpu_second(blocks, "litellm") is None


def an_event(number: int, agent: str, verb: str, seconds: float, stage: str = "ResponseComplete") -> dict[str, Any]:
    at = (NOON + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    return {"auditID": f"a{number}", "userAgent": agent, "verb": verb, "requestReceivedTimestamp": at, "stage": stage}


def test_calls_are_counted_once_within_the_window_and_per_minute() -> None:
    operator, router = "modelfleet-operator/0.1", "modelfleet-router/0.1"
    events = [
        an_event(1, operator, "patch", 1), an_event(2, operator, "patch", 119), an_event(3, operator, "patch", 120), an_event(4, operator, "patch", -1),
        an_event(5, router, "watch", 2, "ResponseStarted"), an_event(5, router, "watch", 2), an_event(6, "kubectl/v1", "get", 3),
    ]  # fmt: skip
    assert calls_per_minute(events, NOON, NOON + timedelta(minutes=2)) == {operator: {"patch": 1.0}, router: {"watch": 0.5}}


# --- goals ---


def test_verdicts() -> None:
    assert Goal("g", "ms", 1.0, most=1.0).verdict == "met"
    assert Goal("g", "ms", 1.01, most=1.0).verdict == "missed"
    assert Goal("g", "1/s", 999.0, least=1000).verdict == "missed"
    assert Goal("g", "1/s", 1000.0, least=1000).verdict == "met"
    assert Goal("g", "ms", 9.0, most=1.0, noise=0.151).verdict == "too noisy"
    assert Goal("g", "ms", 9.0, most=1.0, noise=0.15).verdict == "missed"
    assert Goal("g", "ms", None, most=1.0, noise=0.9).verdict == "not measured"


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (1234.5, "1,234"), (99.96, "100"), (12.34, "12.3"), (1.234, "1.23"), (4.0, "4"), (-0.056, "-0.06")])
def test_numbers_have_three_figures(value, text) -> None:
    assert number(value) == text


def a_block(direct: float, decided: float, compiled: float) -> dict[str, Any]:
    return {
        name: {"sent": 10, "good": 10, "p50": ms, "p90": ms, "p99": ms * 2} for name, ms in (("direct", direct), ("decided", decided), ("compiled", compiled))
    }


def a_busy_block(scale: float = 1.0) -> dict[str, Any]:
    def one(good: int, **cpu: float) -> dict[str, Any]:
        return {"sent": good, "good": good, "seconds": 1.0, "cpu": cpu, "p50": 1.0, "p99": 2.0}

    return {
        "direct": one(9000),
        "decided": one(int(1300 * scale), envoy=0.4, router=0.6),
        "compiled": one(3000, envoy=0.9, router=0.1),
        "litellm": one(100, litellm=1.0),
    }


def a_result(*direct: float, scale: float = 1.0) -> dict[str, Any]:
    blocks = [a_block(d, d + 1.2, d + 0.3) for d in direct]
    return {
        "date": "2026-01-05 12:00 UTC",
        "quick": False,
        "machine": {"cpu": "Chip", "cores": 2, "memory_gb": 23, "busy": 0.02},
        "versions": {"Envoy": "1.40.0"},
        "apply": summary([100.0, 240.0]) | {"of": {"decided": summary([240.0])}},
        "endpoints": summary([50.0, 120.0]),
        "latency": {"100": blocks, "300": blocks},
        "saturation": [a_busy_block(), a_busy_block(scale)],
        "decisions": {"check": across([2500.0, 2600.0]), "answer": across([9000.0]), "decide": across([20000.0])},
        "idle": {"seconds": 180.0, "calls": {"modelfleet-operator/0.1": {"get": 2.0, "patch": 12.0}, "modelfleet-router/0.1": {"watch": 30.0}}},
        "memory": {"router": 99.0},
    }


def verdicts(result: dict[str, Any]) -> list[str]:
    return [goal.verdict for goal in goals(result)]


def test_each_goal_has_its_verdict() -> None:
    assert verdicts(a_result(1.0, 1.05)) == ["met", "missed", "met", "met", "met", "met", "missed", "met", "met", "met", "missed"]
    assert [g.name for g in missed(goals(a_result(1.0, 1.05)))] == [
        "endpoint changed until used, p99", "requests per CPU-second, Envoy and router, compiled away", "idle API calls a minute, all processes",
    ]  # fmt: skip


def test_a_noisy_machine_gets_no_verdict_on_the_clock_and_a_noisy_figure_none_on_cpu() -> None:
    assert noise(a_result(1.0, 1.2)["latency"]) == pytest.approx(0.2 / 1.1)
    assert verdicts(a_result(1.0, 1.2)) == ["too noisy"] * 5 + ["met", "missed", "met", "met", "met", "missed"]
    assert verdicts(a_result(1.0, 1.05) | {"machine": {"busy": 0.11}}) == ["too noisy"] * 9 + ["met", "missed"]
    quiet = a_result(1.0, 1.0)
    quiet["latency"] |= {"20": [a_block(1.0, 2.0, 1.5), a_block(2.0, 3.0, 2.5)]}
    assert verdicts(quiet)[0] == "met", "at the low rate, asked for LiteLLM's sake, the clock is not judged"
    assert verdicts(a_result(1.0, 1.0, scale=2.0))[5:8] == ["too noisy", "missed", "too noisy"]


def test_what_was_left_out_is_not_measured() -> None:
    assert set(verdicts({})) == {"not measured"}
    assert missed(goals({})) == []


# --- the page ---


def test_a_section_tells_everything_that_was_measured() -> None:
    text = section(a_result(1.0, 1.05), [["Demo", "`make demo`", "53 s"]])
    for line in (
        "## Run of 2026-01-05 12:00 UTC",
        "| endpoint changed until used, p99 | 120 ms | at most 100 | missed |",
        "| RoutingPolicy applied, until served, decided | 1 | 240 | 240 | 240 |",
        "| modelfleet, a decision on every request | 2.20 / 2.25 | 4.40 / 4.50 | 1.20 (1.20 to 1.20) | 2.40 (2.40 to 2.40) | 0 of 20 |",
        "| LiteLLM proxy | 100 | 100 (100 to 100) | litellm 10000 | 1 | 0 of 200 |",
        "| modelfleet-operator/0.1 | get 2, patch 12 | 14 |",
        "| all |  | 44 |",
        "| router | 99 |",
        "| Demo | `make demo` | 53 s |",
    ):
        assert line in text.splitlines(), text
    assert "first-path.md" in section(a_result(1.0))


def test_the_newest_run_is_on_top_and_the_same_run_is_replaced() -> None:
    first = with_run("", section(a_result(1.0)))
    assert first.startswith(PREFACE)
    second = with_run(first.replace("# The control", "# Old words\n# The control"), section(a_result(1.0) | {"date": "2026-01-06 08:00 UTC"}))
    assert [line for line in second.splitlines() if line.startswith("## ")] == ["## Run of 2026-01-06 08:00 UTC", "## Run of 2026-01-05 12:00 UTC"]
    assert "Old words" not in second
    again = with_run(second, section(a_result(2.0) | {"date": "2026-01-06 08:00 UTC"}))
    assert again.count("## Run of") == 2
    assert "3.20 | 6.40 |" in again
    assert with_run(again, section(a_result(2.0) | {"date": "2026-01-06 08:00 UTC"})) == again


def test_the_times_of_the_two_commands_come_from_the_first_path() -> None:
    page = "# First\n\n| What | Command | Seen |\n|---|---|---|\n| Demo | `make demo` | 53 s |\n| Other | `pytest` | 1 s |\n| All | `make test` | 20 min |\n"
    assert two_commands(page) == [["Demo", "`make demo`", "53 s"], ["All", "`make test`", "20 min"]]
    assert two_commands((Path(__file__).parents[2] / "docs" / "results" / "first-path.md").read_text()), "the page has rows of the two commands"


def test_the_page_in_the_checkout_has_the_present_preface() -> None:
    assert (Path(__file__).parents[2] / "docs" / "results" / "control.md").read_text().startswith(PREFACE)


# --- what goes in ---


def a_row(at: int, status: int, latency: int, headers: str) -> str:
    return f"{at},{status},{latency},1100,300,,,,0,POST,http://x,{base64.b64encode(headers.encode()).decode()}"


def test_answers_of_vegeta_are_read_with_the_word_of_their_decision() -> None:
    rows = [
        a_row(2_500_000_000, 200, 1_500_000, "Content-Type: a\r\nX-Modelfleet-Decision: policy=a/b/1;rule=-;chain=c;why=Compiled\r\n\r\n"),
        a_row(1_000_000_000, 503, 250_000, ""),
    ]
    assert answers("\n".join(rows)) == [Answer(0.0, 0.25, 503, ""), Answer(1.5, 1.5, 200, "Compiled")]
    assert answers("") == []


def test_an_answer_counts_only_as_it_was_meant() -> None:
    decided = Contestant("decided", [], "m", whys=frozenset(("RuleMatched",)))
    seen = [Answer(0, 1.0, 200, "RuleMatched"), Answer(0, 2.0, 200, "DeciderLost"), Answer(0, 3.0, 503, "RuleMatched")]
    assert _good(decided, seen) == [1.0]
    with pytest.raises(LabError, match=r"decided: no answer was as meant.*DeciderLost"):
        _good(decided, seen[1:])


@pytest.mark.parametrize("size", [300, 1100, 40_000])
def test_a_body_has_the_size_it_should_have(size) -> None:
    assert len(objects.body("some-model", size)) == size


def test_the_objects_have_one_policy_for_each_model_that_is_asked_for() -> None:
    made = objects.everything(("198.18.0.1", "198.18.0.2"), 8000)
    names = [o["metadata"]["name"] for o in made if o["kind"] == "RoutingPolicy"]
    assert len(names) == len(set(names))
    assert {"decided", "compiled", "moving", "follow-decided", "follow-compiled"} < set(names)
    assert "23 pools and 25 policies" in PREFACE
    assert (len(names), sum(o["kind"] == "ModelPool" for o in made)) == (25, 23)


def test_both_back_ends_stand_behind_every_contestant() -> None:
    addresses = ("198.18.0.1", "198.18.0.2")
    listeners = bootstrap(addresses, 8000)["static_resources"]["listeners"]
    assert tuple(listener["address"]["socket_address"]["address"] for listener in listeners) == addresses
    deployments: Any = settings(addresses, 8000)["model_list"]
    assert [d["litellm_params"]["api_base"] for d in deployments] == [f"http://{a}:8000/v1" for a in addresses]


def test_the_cpu_has_a_name_or_at_least_an_architecture() -> None:
    assert cpu_model("processor : 0\nmodel name\t: Chip 9 @ 3 GHz\nmodel name: other\n") == "Chip 9 @ 3 GHz"
    assert cpu_model("")


def test_the_load_generator_is_built_only_when_it_is_asked_for() -> None:
    assert not any("vegeta" in module.commands for module in MODULES)
    assert any("vegeta" in module.commands for module in ASKED_FOR)
    assert binary("vegeta").name == "vegeta"
