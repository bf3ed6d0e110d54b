"""AgentTeam: roles bound to pools or policies, one strategy, a hard budget for each run; served as one more model name."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from .common import Cel, Column, Condition, Duration, Kind, MapKey, Money, Name, Percent, SpecModel, StatusModel
from .routingpolicy import GatewayStatus

__all__ = [
    "AgentTeam",
    "AgentTeamSpec",
    "AgentTeamStatus",
    "Bounds",
    "Budget",
    "Chain",
    "ChainStep",
    "FieldMatch",
    "MapReduce",
    "Repeat",
    "Role",
    "RoleStatus",
    "Sampling",
    "StepMatch",
]

ObjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]
Temperature = Annotated[str, StringConstraints(pattern=r"^([01](\.[0-9]{1,4})?|2(\.0{1,4})?)$", max_length=6)]
"""From 0 to 2, as a decimal string."""
Share = Annotated[str, StringConstraints(pattern=r"^(0(\.[0-9]{1,4})?|1(\.0{1,4})?)$", max_length=6)]
"""From 0 to 1, as a decimal string."""
FieldName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]
RetryTrigger = Literal["Timeout", "RateLimited", "ServerError", "InvalidOutput"]


class PoolRef(SpecModel):
    """A ModelPool of the team's namespace."""

    name: ObjectName


class PolicyRef(SpecModel):
    """A RoutingPolicy of the team's namespace."""

    name: ObjectName


class ModelFrom(SpecModel):
    """Who answers for a role."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("has(self.modelPoolRef) != has(self.routingPolicyRef)", "modelFrom: exactly one of modelPoolRef and routingPolicyRef"),
    )

    model_pool_ref: PoolRef | None = None
    routing_policy_ref: PolicyRef | None = None


class Sampling(SpecModel):
    """How a role's model samples. ``maxTokens`` bounds what a call may cost, so it is required."""

    temperature: Temperature | None = None
    top_p: Share | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)]


class Retries(SpecModel):
    """Further attempts at one call of a role; each is reserved and paid like the first."""

    max: Annotated[int, Field(ge=0, le=10)] = 2
    backoff: Duration = "500ms"
    retry_on: Annotated[list[RetryTrigger], Field(max_length=4)] = ["Timeout", "RateLimited", "ServerError", "InvalidOutput"]


class Role(SpecModel):
    """One narrow job: who does it, told what, and within which limits."""

    name: Name
    model_from: ModelFrom
    instructions: Annotated[str, StringConstraints(max_length=32_768)] = ""
    sampling: Sampling
    timeout: Duration = "60s"
    max_concurrent: Annotated[int, Field(ge=1, le=1024)] = 4
    retries: Retries = Retries()
    output_schema: Annotated[
        dict[str, Any] | None,
        Field(
            max_length=16,
            description="JSON Schema of the role's answer: object, string, number, integer, boolean, array, enum. Another answer is InvalidOutput.",
        ),
    ] = None


class StepMatch(SpecModel):
    """True when a field of an earlier step's typed output is one of these: its canonical JSON text, or a text as it is."""

    step: Name
    field: FieldName
    one_of: Annotated[list[Annotated[str, StringConstraints(max_length=256)]], Field(min_length=1, max_length=16)]


class FieldMatch(SpecModel):
    """True when a field of the typed output is one of these: its canonical JSON text, or a text as it is."""

    field: FieldName
    one_of: Annotated[list[Annotated[str, StringConstraints(max_length=256)]], Field(min_length=1, max_length=16)]


class ChainStep(SpecModel):
    """One step. ``input`` is a template over ${input}, ${steps.NAME.output} and ${steps.NAME.output.FIELD}."""

    name: Name
    role: Name
    input: Annotated[str, StringConstraints(max_length=16_384)] = "${input}"
    when: StepMatch | None = None
    on_failure: Literal["Fail", "Skip"] = "Fail"


class Repeat(SpecModel):
    """Steps ``from`` to ``to`` run again until the predicate holds or the iterations are used up."""

    from_step: Annotated[Name, Field(alias="from")]
    to_step: Annotated[Name, Field(alias="to")]
    until: StepMatch
    max_iterations: Annotated[int, Field(ge=1, le=10)] = 3


class Chain(SpecModel):
    """Steps in order."""

    steps: Annotated[list[ChainStep], MapKey(("name",)), Field(min_length=1, max_length=16)]
    repeat: Repeat | None = None


class PlanCall(SpecModel):
    """One call that writes sub-questions from the question and the size of the text alone."""

    role: Name
    max_tasks: Annotated[int, Field(ge=1, le=16)] = 2


class Split(SpecModel):
    """How the document is cut. Tokens are estimated at four bytes each."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("self.by != 'Chunk' || (has(self.tokens) && self.overlap * 2 <= self.tokens)", "split: Chunk needs tokens, and overlap at most half of them"),
    )

    by: Literal["Chunk", "JsonArray", "Lines"] = "Chunk"
    tokens: Annotated[int, Field(ge=16, le=1_000_000)] | None = None
    overlap: Annotated[int, Field(ge=0, le=500_000)] = 0
    max_items: Annotated[int, Field(ge=1, le=1000)] = 200


class MapCall(SpecModel):
    """One call for each item and sub-question, each with a fresh context. ``dropWhen`` removes empty findings before the reduce pays for them."""

    role: Name
    drop_when: FieldMatch | None = None


class ReduceCall(SpecModel):
    """One call over the findings, or a tree of at most ``fanIn`` findings each."""

    role: Name
    fan_in: Annotated[int, Field(ge=2, le=256)] = 32


class MapReduce(SpecModel):
    """Small models read the parts, another answers from what they found."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("self.onBranchFailure != 'Escalate' || has(self.escalateTo)", "mapReduce: onBranchFailure Escalate needs escalateTo"),
        Cel("has(self.reduce) != has(self.reducer)", "mapReduce: exactly one of reduce and reducer"),
    )

    plan: PlanCall | None = None
    split: Split
    map: MapCall
    reduce: ReduceCall | None = None
    reducer: Literal["Concat"] | None = None
    min_successful: Percent = "100%"
    on_branch_failure: Literal["Continue", "Fail", "Escalate"] = "Continue"
    escalate_to: Name | None = None


class Strategy(SpecModel):
    """How the roles work together."""

    cel: ClassVar[tuple[Cel, ...]] = (Cel("[has(self.chain), has(self.mapReduce)].filter(x, x).size() == 1", "strategy: exactly one of chain and mapReduce"),)

    chain: Chain | None = None
    map_reduce: MapReduce | None = None


class PerRun(SpecModel):
    """Hard caps of one run. ``modelCalls`` counts attempts, retries included."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("has(self.cost) || has(self.tokens)", "budget.perRun: cost or tokens is required"),
        Cel("duration(self.wallClock) >= duration('1s') && duration(self.wallClock) <= duration('4h')", "budget.perRun.wallClock: between 1s and 4h"),
    )

    cost: Money | None = None
    wall_clock: Duration
    tokens: Annotated[int, Field(ge=1, le=10_000_000_000)] | None = None
    model_calls: Annotated[int, Field(ge=1, le=10_000)] = 1000


class Budget(SpecModel):
    """What a run may spend, and what becomes of one that may not go on. Candidates without a price are never called."""

    per_run: PerRun
    on_exhausted: Literal["Finalize", "Fail"] = "Finalize"


class Limits(SpecModel):
    """Runs at a time, and runs that wait for one of those places."""

    max_runs: Annotated[int, Field(ge=1, le=10_000)] = 50
    queue: Annotated[int, Field(ge=0, le=100_000)] = 200


class Expose(SpecModel):
    """Doors to the team."""

    cel: ClassVar[tuple[Cel, ...]] = (Cel("self.openai", "expose: at least one door; openai is the one there is"),)

    openai: bool = True


class Journal(SpecModel):
    """Full: prompts and answers are kept for ``ttl`` and a run survives a crash. None: neither."""

    content: Literal["Full", "None"] = "Full"
    ttl: Duration = "72h"


class AgentTeamSpec(SpecModel):
    """Who works, how, and for how much."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "!has(self.strategy.chain) || self.strategy.chain.steps.all(s, self.roles.exists(r, r.name == s.role))",
            "strategy.chain: a step names a role that is not in roles",
        ),
        Cel(
            "!has(self.strategy.mapReduce) || self.roles.exists(r, r.name == self.strategy.mapReduce.map.role)",
            "strategy.mapReduce.map names a role that is not in roles",
        ),
        Cel(
            "!has(self.strategy.mapReduce) || !has(self.strategy.mapReduce.plan) || self.roles.exists(r, r.name == self.strategy.mapReduce.plan.role)",
            "strategy.mapReduce.plan names a role that is not in roles",
        ),
        Cel(
            "!has(self.strategy.mapReduce) || !has(self.strategy.mapReduce.reduce) || self.roles.exists(r, r.name == self.strategy.mapReduce.reduce.role)",
            "strategy.mapReduce.reduce names a role that is not in roles",
        ),
        Cel(
            "!has(self.strategy.mapReduce) || !has(self.strategy.mapReduce.escalateTo) || self.roles.exists(r, r.name == self.strategy.mapReduce.escalateTo)",
            "strategy.mapReduce.escalateTo names a role that is not in roles",
        ),
        Cel("self.roles.all(r, duration(r.timeout) <= duration(self.budget.perRun.wallClock))", "roles: a timeout exceeds budget.perRun.wallClock"),
    )

    description: Annotated[str, StringConstraints(max_length=1024)] = ""
    suspend: bool = False
    roles: Annotated[list[Role], MapKey(("name",)), Field(min_length=1, max_length=32)]
    strategy: Strategy
    budget: Budget
    limits: Limits = Limits()
    expose: Expose = Expose()
    journal: Journal = Journal()


class WorstPrice(StatusModel):
    """The dearest price a role's call may meet, dollars per million tokens."""

    input_per_million: str
    output_per_million: str


class RoleStatus(StatusModel):
    """One role: where it leads and whether anyone there can answer."""

    name: str
    target: str
    ready: bool = False
    candidates: int = 0
    worst_price: WorstPrice | None = None


class Bounds(StatusModel):
    """What one run takes at most (retries apart, before ``perRun`` cuts it) and at least. Dollars.

    At most: a question of 4 KiB over the largest document that is split into chunks, or over 256 KiB of anything else.
    """

    max_model_calls: int
    worst_cost: str | None = None
    minimum_cost: str | None = None


class AgentTeamStatus(StatusModel):
    """By the operator: everything but ``gateways`` (each router its entry) and the condition Programmed (the team runtime)."""

    observed_generation: int = 0
    revision: str | None = None
    strategy: str | None = None
    model_names: Annotated[list[str], Field(max_length=2)] = []
    roles: Annotated[list[RoleStatus], MapKey(("name",)), Field(max_length=32)] = []
    bounds: Bounds | None = None
    conditions: Annotated[list[Condition], MapKey(("type",)), Field(max_length=16)] = []
    gateways: Annotated[list[GatewayStatus], MapKey(("name",)), Field(max_length=64)] = []


class AgentTeam(Kind):
    """Several model calls under one name and one budget."""

    KIND: ClassVar[str] = "AgentTeam"
    PLURAL: ClassVar[str] = "agentteams"
    SHORT: ClassVar[str] = "at"
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        Column("Strategy", ".status.strategy"),
        Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
        Column("Worst-$/run", ".status.bounds.worstCost"),
        Column("Age", ".metadata.creationTimestamp", "date"),
        Column("Revision", ".status.revision", priority=1),
        Column("Model", ".status.modelNames[0]", priority=1),
    )
    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 63",
            "metadata.name: a DNS label of at most 63 characters",
        ),
    )

    spec: AgentTeamSpec
    status: AgentTeamStatus = AgentTeamStatus()
