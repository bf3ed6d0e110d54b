"""RoutingPolicy: which model answers a request. Entrypoints, candidates, rules, and what to fall back on."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from .common import Cel, Column, Condition, Duration, Kind, MapKey, Name, SpecModel, StatusModel

__all__ = [
    "Candidate",
    "Capabilities",
    "DefaultChain",
    "Entrypoint",
    "Fallback",
    "FallbackTrigger",
    "GatewayStatus",
    "HeaderMatch",
    "Match",
    "PoolRef",
    "Range",
    "RoutingPolicy",
    "RoutingPolicySpec",
    "RoutingPolicyStatus",
    "Rule",
    "Weight",
]

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9._/]*[A-Za-z0-9])?$", max_length=128)]
FallbackTrigger = Literal["Connect", "ResetBeforeByte", "Status429", "Status503", "FirstByteTimeout"]


class Entrypoint(SpecModel):
    """A public model name, unique per gateway (the oldest policy wins); may pin one rule."""

    name: ModelName
    rule: Name | None = None


class PoolRef(SpecModel):
    """A ModelPool of the policy's namespace."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]


class Capabilities(SpecModel):
    """What a candidate can do; a request that needs more never reaches it."""

    max_context: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    tools: bool = True
    json_mode: Annotated[bool, Field(alias="json")] = True
    vision: bool = False


class Candidate(SpecModel):
    """A pool as this policy sees it."""

    name: Name
    pool_ref: PoolRef
    capabilities: Capabilities = Capabilities()


class DefaultChain(SpecModel):
    """Served when no rule matches and when the decider is lost, so it must always be valid."""

    chain: Annotated[list[Name], Field(min_length=1, max_length=16)]
    on_decider_loss: Literal["Static", "Refuse"] = "Static"


class HeaderMatch(SpecModel):
    """An exact header value. Names are lower case; x-modelfleet-* and x-envoy-* are stripped from clients, so they never match."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9_]*[a-z0-9])?$", max_length=64)]
    value: Annotated[str, StringConstraints(max_length=256)]


class Range(SpecModel):
    """Inclusive bounds of estimated input tokens."""

    cel: ClassVar[tuple[Cel, ...]] = (Cel("!has(self.min) || !has(self.max) || self.min <= self.max", "inputTokens.min must not exceed inputTokens.max"),)

    min: Annotated[int, Field(ge=0, le=100_000_000)] | None = None
    max: Annotated[int, Field(ge=0, le=100_000_000)] | None = None


class Match(SpecModel):
    """All given fields must hold."""

    headers: Annotated[list[HeaderMatch] | None, Field(max_length=16)] = None
    input_tokens: Range | None = None
    tools: Literal["Any", "Present", "Absent"] = "Any"


class Weight(SpecModel):
    """A candidate's share of the requests a rule matches."""

    candidate: Name
    percent: Annotated[int, Field(ge=0, le=100)]


class Rule(SpecModel):
    """First match in list order. Ordered ``candidates``, or ``weights`` (sticky by session); neither: all candidates as listed."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("!(has(self.candidates) && has(self.weights))", "a rule has candidates or weights, not both"),
        Cel("!has(self.weights) || self.weights.map(w, w.percent).sum() == 100", "weights must add up to 100"),
    )

    name: Name
    match: Match = Match()
    candidates: Annotated[list[Name] | None, Field(min_length=1, max_length=16)] = None
    weights: Annotated[list[Weight] | None, MapKey(("candidate",)), Field(min_length=1, max_length=16)] = None


class Fallback(SpecModel):
    """When the next candidate is tried. 400, 404 and 422 never are; nothing is retried after a response byte."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("duration(self.firstByteTimeout) >= duration('100ms')", "fallback.firstByteTimeout: at least 100ms"),
        Cel("duration(self.firstByteTimeout) <= duration(self.totalTimeout)", "fallback.firstByteTimeout must not exceed fallback.totalTimeout"),
    )

    retry_on: Annotated[
        list[FallbackTrigger],
        Field(max_length=5, description="What makes the next candidate be tried."),
    ] = ["Connect", "ResetBeforeByte", "Status429", "Status503", "FirstByteTimeout"]
    max_attempts: Annotated[int, Field(ge=1, le=5)] = 3
    first_byte_timeout: Duration = "20s"
    total_timeout: Duration = "10m"


class RoutingPolicySpec(SpecModel):
    """The public model names, the pools behind them, and which of them answers which request."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("self.default.chain.all(c, self.candidates.exists(k, k.name == c))", "default.chain names a candidate that is not in candidates"),
        Cel("self.default.chain.all(c, self.default.chain.exists_one(d, d == c))", "default.chain names a candidate twice"),
        Cel(
            "!has(self.rules) || self.rules.all(r, !has(r.candidates) || r.candidates.all(c, self.candidates.exists(k, k.name == c)))",
            "a rule's candidates name one that is not in candidates",
        ),
        Cel(
            "!has(self.rules) || self.rules.all(r, !has(r.weights) || r.weights.all(w, self.candidates.exists(k, k.name == w.candidate)))",
            "a rule's weights name a candidate that is not in candidates",
        ),
        Cel(
            "self.entrypoints.all(e, !has(e.rule) || (has(self.rules) && self.rules.exists(r, r.name == e.rule)))",
            "an entrypoint pins a rule that is not in rules",
        ),
    )

    entrypoints: Annotated[list[Entrypoint], MapKey(("name",)), Field(min_length=1, max_length=16)]
    candidates: Annotated[list[Candidate], MapKey(("name",)), Field(min_length=1, max_length=16)]
    default: DefaultChain
    rules: Annotated[list[Rule] | None, MapKey(("name",)), Field(max_length=32)] = None
    fallback: Fallback = Fallback()


class GatewayStatus(StatusModel):
    """What one gateway pod's Envoy runs of this policy; written by that pod's router alone."""

    name: str
    generation: int = 0
    version: str = ""
    acknowledged_at: datetime | None = None
    rejected: str | None = None
    missing: Annotated[list[str], Field(max_length=16)] = []


class RoutingPolicyStatus(StatusModel):
    """Conditions by the operator, ``gateways`` by the routers (one entry each)."""

    observed_generation: int = 0
    entrypoints: str | None = None
    acknowledged: str | None = None
    conditions: Annotated[list[Condition], MapKey(("type",)), Field(max_length=16)] = []
    gateways: Annotated[list[GatewayStatus], MapKey(("name",)), Field(max_length=64)] = []


class RoutingPolicy(Kind):
    """Which model answers."""

    KIND: ClassVar[str] = "RoutingPolicy"
    PLURAL: ClassVar[str] = "routingpolicies"
    SHORT: ClassVar[str] = "rp"
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
        Column("Entrypoints", ".status.entrypoints"),
        Column("Gateways", ".status.acknowledged"),
        Column("Age", ".metadata.creationTimestamp", "date"),
    )

    spec: RoutingPolicySpec
    status: RoutingPolicyStatus = RoutingPolicyStatus()
