"""Figures, verdicts and the page of `make bench-scale`, on figures that are made up; and its fleet, by the operator's own models."""

from __future__ import annotations

from typing import Any

import pytest
from e2e.bench import scale_objects as objects
from e2e.bench.scale import QUICK, Length
from e2e.bench.scale_page import PREFACE, exponent, figures, scale_goals, section, with_run
from tests.support.builders import NOON

from modelfleet.api.v1alpha1 import AcceleratorClass, ModelPool
from modelfleet.core.world import World

KEYS = {
    "ratio_to_bare_apply", "growth_exponent", "change_p50_ms", "change_p99_ms", "restart_s", "restart_writes", "idle_calls_per_minute", "rss_mb",
    "plan_full_ms", "plan_incremental_cpu_ms",
}  # fmt: skip


def a_size(seconds: float, bare: float = 10.0) -> dict[str, Any]:
    ours = {"children_s": seconds - 1, "statuses_s": seconds, "from_process_start_s": seconds + 2, "writes": {"deployments": 4, "modelpools/status": 2}}
    return {"ours": ours, "bare": {"children_s": bare - 2, "statuses_s": 2.0, "writes": 10}}


def a_result(**more: Any) -> dict[str, Any]:
    result: dict[str, Any] = {
        "date": "2026-01-05 12:00 UTC", "quick": False, "main": 1000, "nodes": 200, "pods": 1000, "seconds": 900, "load_average": 0.4,
        "machine": {"cpu": "Chip", "cores": 2, "memory_gb": 8, "busy": 0.02}, "versions": {"modelfleet": "1"},
        "sizes": {"500": a_size(6.0), "1000": a_size(12.0)},
        "change": {"n": 9, "p50": 40.0, "p99": 300.0, "max": 301.0, "operator_cpu_ms_per_change": 30.0,
                   "cycle_ms": {"cycles": 20, "observe": 1.0, "plan": 10.0, "act": 9.0}},
        "restart": {"seconds": 4.0, "writes": 1, "of": ["services"]},
        "idle": {"seconds": 60, "calls": {"modelfleet-operator/1": {"watch": 4.0, "update": 12.0}}, "cpu_share": 0.01, "rss_mb": 250.0},
        "planner": {"full_ms": 600.0, "full_cpu_ms": 590.0, "incremental_cpu_ms": 10.0, "incremental_cpu_p99_ms": 12.0},
    }  # fmt: skip
    result |= more
    return result | figures(result)


def test_every_figure_has_its_key_and_its_goal() -> None:
    result = a_result()
    assert set(figures(result)) == KEYS
    assert (result["ratio_to_bare_apply"], result["growth_exponent"], result["idle_calls_per_minute"]) == (1.2, pytest.approx(1.0), 16.0)
    verdicts = {line.name: line.verdict for line in scale_goals(result)}
    assert len(verdicts) == len(KEYS)
    assert sorted(name for name, verdict in verdicts.items() if verdict == "missed") == [
        "one change until its children are applied, p99",
        "writes while catching up",
    ]


def test_on_a_busy_machine_only_counts_and_ratios_are_judged() -> None:
    busy = a_result(machine={"cpu": "Chip", "cores": 2, "memory_gb": 8, "busy": 0.5})
    judged = {line.name for line in scale_goals(busy) if line.verdict != "too noisy"}
    assert judged == {"all pools applied, over a bare loop", "writes while catching up", "idle API calls a minute", "resident memory"}


@pytest.mark.parametrize(("points", "expected"), [([(250, 1.0), (500, 2.0), (1000, 4.0)], 1.0), ([(10, 1.0), (20, 4.0)], 2.0), ([(10, 3.0)], 0.0)])
def test_the_exponent_of_growth(points, expected) -> None:
    assert exponent(points) == pytest.approx(expected)


def test_the_page_has_the_newest_run_on_top_and_each_run_once() -> None:
    first, second = section(a_result()), section(a_result(date="2026-01-06 12:00 UTC"))
    page = with_run(with_run(with_run("", first), second), second)
    assert page.startswith(PREFACE)
    assert [line for line in page.splitlines() if line.startswith("## ")] == ["## Run of 2026-01-06 12:00 UTC", "## Run of 2026-01-05 12:00 UTC"]
    assert "| one change until its children are applied, p99 | 300 ms | at most 250 | missed |" in page


def test_the_fleet_is_one_that_the_operator_reads() -> None:
    pools = [ModelPool.model_validate(objects.pool(n)) for n in (0, 7, 1999)]
    classes = {c: AcceleratorClass.model_validate(objects.accelerator_class(c)) for c in objects.CARDS}
    assert {f.accelerator_class for p in pools for f in p.spec.flavors} <= classes.keys()
    assert len({p.key for p in pools}) == 3
    assert World(NOON, pools=tuple(pools)).pools
    devices = objects.NODES * objects.PER_NODE
    assert max(Length().sizes) <= devices  # every replica has a device
    assert Length().main in Length().sizes
    assert QUICK.main in QUICK.sizes


def test_a_ready_pod_stands_on_a_node_of_its_card() -> None:
    template = {
        "metadata": {"labels": {"modelfleet.dev/pool": "p"}},
        "spec": {"nodeSelector": {"modelfleet.dev/accelerator-class": "card-2"}, "containers": [{"resources": {"requests": {objects.GPU: "1"}}}]},
    }
    for number in (0, 49, 50, 999):
        made, _ = objects.ready_pod({"metadata": {"name": "d", "namespace": "n"}, "spec": {"template": template}}, number)
        host = int(made["spec"]["nodeName"].removeprefix("node-"))
        assert objects.node(host)[0]["metadata"]["labels"]["example.com/card"] == "card-2"
        assert host < objects.NODES
