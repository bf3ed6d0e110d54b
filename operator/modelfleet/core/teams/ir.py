"""TeamPlan: what an AgentTeam means, ready to run. Made by ``compile.py``, executed by the team runtime, reported by the operator.

Plain frozen data. ``revision`` is a digest of what a run is made of: everything here but the generation, and but prices, which move more
often than specs: a run pins the price table it started with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from modelfleet.api.v1alpha1.agentteam import Chain, MapReduce

__all__ = ["BudgetPlan", "PriceTable", "Problem", "RolePlan", "RoleTarget", "Target", "TeamPlan", "TeamsPlan", "TokenPrice"]


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """Where a role's calls go. ``str()`` is the model name that the gateway knows it by: ``pool:<ns>/<name>`` or ``policy:<ns>/<name>``."""

    kind: Literal["pool", "policy"]
    key: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.key}"


@dataclass(frozen=True, slots=True, order=True)
class TokenPrice:
    """Micro-dollars per million tokens."""

    input_per_million: int
    output_per_million: int


PriceTable = Mapping[tuple[str, str], TokenPrice]
"""(pool key, flavor) -> price. A flavor without a price is not in it."""


@dataclass(frozen=True, slots=True)
class RolePlan:
    """One role. Times in seconds. ``schema``: canonical JSON text of the output schema, or None. ``sampling``: decimal strings, None where not set."""

    name: str
    target: Target
    instructions: str
    max_tokens: int
    timeout: float
    max_concurrent: int
    temperature: str | None = None
    top_p: str | None = None
    max_retries: int = 0
    backoff: float = 0.5
    retry_on: frozenset[str] = frozenset()
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """Caps of one run; None: no cap of that kind. ``wall_clock`` in seconds."""

    cost_micro_usd: int | None
    tokens: int | None
    model_calls: int
    wall_clock: float
    finalize: bool


@dataclass(frozen=True, slots=True)
class TeamPlan:
    """One team. ``strategy`` is the spec's own (frozen) description; ``answering_role`` gives the last word; ``journal_ttl`` in seconds."""

    key: str
    generation: int
    revision: str
    description: str
    suspended: bool
    roles: Mapping[str, RolePlan]
    strategy: Chain | MapReduce
    answering_role: str
    budget: BudgetPlan
    max_runs: int
    queue: int
    journal_full: bool
    journal_ttl: float


@dataclass(frozen=True, slots=True)
class RoleTarget:
    """What is behind a role's target now: (pool key, flavor) of everything a call may reach, and whether anything there can answer.

    ``hosted``: those of ``flavors`` that run on servers of ours, where ending a call ends its cost.
    """

    flavors: tuple[tuple[str, str], ...] = ()
    candidates: int = 0
    usable: bool = False
    hosted: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a team: ``type`` is the condition, ``reason`` an AgentTeamReason; ``message`` names the path."""

    team: str
    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class TeamsPlan:
    """Every team of a world: ``teams`` those that can run, ``names`` (model name -> team key) and ``targets`` (team key -> role -> target) all of them."""

    teams: Mapping[str, TeamPlan] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    targets: Mapping[str, Mapping[str, RoleTarget]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    prices: PriceTable = field(default_factory=dict)
