"""Strategies, by the type of their description."""

from __future__ import annotations

from modelfleet.api.v1alpha1.agentteam import Chain
from modelfleet.core.teams.ir import TeamPlan
from modelfleet.core.teams.strategies.protocol import Strategy

__all__ = ["strategy_of"]


def strategy_of(plan: TeamPlan) -> Strategy:
    """The machine that runs a team's plan."""
    # late: the machines count bytes with core/teams/tokens.py, which reads this package's protocol
    from modelfleet.core.teams.strategies.chain import ChainStrategy
    from modelfleet.core.teams.strategies.map_reduce import MapReduceStrategy

    return ChainStrategy() if isinstance(plan.strategy, Chain) else MapReduceStrategy()
