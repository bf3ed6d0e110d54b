"""No name of a metric without a series: each is exposed by the router, the operator or the team runtime, and what the operator reads, a router exposes."""

from __future__ import annotations

from modelfleet.controller.meters import Meters
from modelfleet.observability import metrics
from modelfleet.router.metrics import RouterMetrics
from modelfleet.teamserver.metrics import TeamMetrics
from modelfleet.telemetry import exposition


def test_every_name_is_exposed() -> None:
    registries = (RouterMetrics().registry, Meters({}).registry, TeamMetrics().registry)
    exposed = {name for registry in registries for family in registry.collect() for name in (family.name, f"{family.name}_total")}
    named = {getattr(metrics, constant) for constant in metrics.__all__}
    assert named <= exposed
    assert sorted(metrics.__all__) == sorted(constant for constant in vars(metrics) if constant.isupper())
    assert set(exposition._WANTED) <= named
