"""No name of a metric without a series: each is exposed by the router or the operator, and what the operator reads, a router exposes."""

from __future__ import annotations

from modelfleet.controller.meters import Meters
from modelfleet.observability import metrics
from modelfleet.router.metrics import RouterMetrics
from modelfleet.telemetry import exposition


def test_every_name_is_exposed() -> None:
    exposed = {
        name for registry in (RouterMetrics().registry, Meters({}).registry) for family in registry.collect() for name in (family.name, f"{family.name}_total")
    }
    named = {getattr(metrics, constant) for constant in metrics.__all__}
    assert named <= exposed
    assert sorted(metrics.__all__) == sorted(constant for constant in vars(metrics) if constant.isupper())
    assert set(exposition._WANTED) <= named
