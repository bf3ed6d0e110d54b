"""The planner of a loop: plans, and carries what one plan remembers to the next. Nothing is decided here (``core/reconcile.py``)."""

from __future__ import annotations

from modelfleet.core.memory import NOTHING
from modelfleet.core.plan import Plan
from modelfleet.core.reconcile import replan
from modelfleet.core.world import World

__all__ = ["Planner"]


class Planner:
    """One per loop; not for two threads at once. A plan that fails leaves the memory as it was."""

    def __init__(self) -> None:
        self._memory = NOTHING

    def __call__(self, world: World) -> Plan:
        """The plan of a world."""
        plan, self._memory = replan(world, self._memory)
        return plan
