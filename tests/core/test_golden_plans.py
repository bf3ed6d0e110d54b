"""Whole plans of small worlds, manifests, statuses and events together."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.golden import GOLDEN, agrees, plan_to_yaml, read_world

from modelfleet.core.reconcile import plan_fleet

CASES = sorted((GOLDEN / "plan").glob("*.in.yaml"))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name.removesuffix(".in.yaml"))
def test_plan(case: Path) -> None:
    agrees(case.with_name(case.name.replace(".in.", ".out.")), plan_to_yaml(plan_fleet(read_world(case)), manifests=case.name.startswith("brand-new")))


def test_there_are_cases() -> None:
    assert len(CASES) >= 8
