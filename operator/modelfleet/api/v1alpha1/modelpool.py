"""ModelPool: one model on an ordered list of flavors (pods on an accelerator class, or a remote endpoint)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from .common import Cel, Column, Condition, Duration, Kind, MapKey, Money, SpecModel, StatusModel

__all__ = [
    "Capacity",
    "Cost",
    "Drain",
    "Endpoint",
    "EndpointPrice",
    "Engine",
    "EngineOverride",
    "EnvVar",
    "Flavor",
    "FlavorPrice",
    "FlavorStatus",
    "LastDecision",
    "MigrateBack",
    "Model",
    "ModelPool",
    "ModelPoolSpec",
    "ModelPoolStatus",
    "PerMillionTokens",
    "Placement",
    "Reason",
    "Resources",
    "Scaling",
    "SecretKeyRef",
]

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$", max_length=32)]
_SOURCE = r"^(hf://[A-Za-z0-9._-]+/[A-Za-z0-9._:-]+|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9._/-]+|image:///?[A-Za-z0-9._/-]+)$"
Source = Annotated[str, StringConstraints(pattern=_SOURCE, max_length=512)]
Args = Annotated[list[Annotated[str, StringConstraints(max_length=1024)]] | None, Field(max_length=64)]
Image = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._/:@-]*$", max_length=512)]


class Model(SpecModel):
    """What is served. ``name`` is the model id the engine serves; it cannot change."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9._/]*[A-Za-z0-9])?$", max_length=128)]
    source: Source


class EnvVar(SpecModel):
    """A plain environment variable of the model server."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
    value: Annotated[str, StringConstraints(max_length=4096)] = ""


class Resources(SpecModel):
    """CPU and memory of one model-server pod; devices are added by the flavor."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "!has(self.requests) || self.requests.all(k, k in ['cpu', 'memory', 'ephemeral-storage'])",
            "resources.requests: cpu, memory and ephemeral-storage only; devices are added by the flavor",
        ),
        Cel(
            "!has(self.limits) || self.limits.all(k, k in ['cpu', 'memory', 'ephemeral-storage'])",
            "resources.limits: cpu, memory and ephemeral-storage only; devices are added by the flavor",
        ),
    )

    requests: Annotated[dict[Literal["cpu", "memory", "ephemeral-storage"], Quantity] | None, Field(max_length=8)] = None
    limits: Annotated[dict[Literal["cpu", "memory", "ephemeral-storage"], Quantity] | None, Field(max_length=8)] = None


class Engine(SpecModel):
    """The model server. LlamaCpp and VLLM have known command lines and images; Custom brings its own image."""

    cel: ClassVar[tuple[Cel, ...]] = (Cel("self.type != 'Custom' || has(self.image)", "engine.image: required when engine.type is Custom"),)

    type: Literal["LlamaCpp", "VLLM", "Custom"]
    image: Image | None = None
    args: Args = None
    env: Annotated[list[EnvVar] | None, MapKey(("name",)), Field(max_length=64)] = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    health_path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._/-]*$", max_length=256)] = "/health"
    resources: Resources | None = None


class EngineOverride(SpecModel):
    """What a flavor changes about the pool's engine, field by field; ``args`` are appended."""

    image: Image | None = None
    args: Args = None
    env: Annotated[list[EnvVar] | None, MapKey(("name",)), Field(max_length=64)] = None
    resources: Resources | None = None


class Capacity(SpecModel):
    """What one replica can do, declared: output tokens per second at full load, and requests in parallel."""

    tokens_per_second: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None


class EndpointPrice(SpecModel):
    """What a remote endpoint charges per million tokens."""

    input_per_million: Money
    output_per_million: Money
    currency: Literal["USD"] = "USD"


class SecretKeyRef(SpecModel):
    """One key of one Secret in the pool's namespace."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
    key: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)]


class Endpoint(SpecModel):
    """A remote OpenAI-compatible endpoint, priced per token."""

    url: Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?$", max_length=512)]
    model: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    auth_secret_ref: SecretKeyRef | None = None
    concurrency: Annotated[int, Field(ge=1, le=100_000)] = 32
    price: EndpointPrice


class Flavor(SpecModel):
    """One way to run the model. Exactly one of ``acceleratorClass`` (pods) and ``endpoint`` (remote)."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("has(self.acceleratorClass) != has(self.endpoint)", "a flavor has exactly one of acceleratorClass and endpoint"),
        Cel(
            "!has(self.endpoint) || !(has(self.devices) || has(self.engine) || has(self.capacity) || has(self.max))",
            "an endpoint flavor carries no devices, engine, capacity or max: those describe pods",
        ),
    )

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=30)]
    accelerator_class: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)] | None = None
    devices: Annotated[int, Field(ge=1, le=1024)] | None = None
    engine: EngineOverride | None = None
    capacity: Capacity | None = None
    max: Annotated[int, Field(ge=0, le=10_000)] | None = None
    endpoint: Endpoint | None = None


class MigrateBack(SpecModel):
    """Return to a preferred flavor after its devices have been free for ``after``; make-before-break."""

    after: Duration = "10m"


class Placement(SpecModel):
    """How flavors are chosen. Ordered: an earlier flavor always wins while it can serve."""

    cel: ClassVar[tuple[Cel, ...]] = (Cel("duration(self.pendingTimeout) >= duration('5s')", "placement.pendingTimeout: at least 5s"),)

    policy: Literal["Ordered"] = "Ordered"
    pending_timeout: Duration = "90s"
    migrate_back: MigrateBack = MigrateBack()


class Scaling(SpecModel):
    """Bounds of the number of replicas. Manual: ``spec.replicas`` (or ``kubectl scale``) rules within them."""

    cel: ClassVar[tuple[Cel, ...]] = (Cel("self.min <= self.max", "scaling.min must not exceed scaling.max"),)

    mode: Literal["Manual"] = "Manual"
    min: Annotated[int, Field(ge=0, le=10_000)] = 0
    max: Annotated[int, Field(ge=0, le=10_000)] = 100


class Drain(SpecModel):
    """How long a leaving replica may finish what it has begun."""

    cel: ClassVar[tuple[Cel, ...]] = (Cel("duration(self.timeout) <= duration('1h')", "drain.timeout: at most 1h"),)

    timeout: Duration = "30s"


class ModelPoolSpec(SpecModel):
    """What is served, how, on which flavors in order of preference, and by how many replicas."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("self.model.name == oldSelf.model.name", "model.name is immutable: clients know the pool by it; make a new pool"),
        Cel("self.replicas >= self.scaling.min && self.replicas <= self.scaling.max", "replicas must lie between scaling.min and scaling.max"),
    )

    model: Model
    engine: Engine | None = None
    flavors: Annotated[list[Flavor], MapKey(("name",)), Field(min_length=1, max_length=8)]
    replicas: Annotated[int, Field(ge=0, le=10_000)] = 1
    placement: Placement = Placement()
    scaling: Scaling = Scaling()
    drain: Drain = Drain()


class FlavorStatus(StatusModel):
    """One flavor as it is now. ``free_since`` and ``retry_after`` are the planner's timers: lost, they restart."""

    name: str
    desired: int = 0
    ready: int = 0
    starting: int = 0
    pending: int = 0
    draining: int = 0
    reachable: bool | None = None
    devices_per_replica: int | None = None
    tokens_per_second: int | None = None
    concurrency: int | None = None
    capacity_source: Literal["Declared"] | None = None
    cost_per_hour: str | None = None
    per_million_at_full_load: str | None = None
    free_since: datetime | None = None
    retry_after: datetime | None = None
    reason: str
    message: str = ""


class PerMillionTokens(StatusModel):
    """Paid in the last ten minutes over tokens served in them; absent when nothing was served."""

    live: str | None = None


class Cost(StatusModel):
    """What the pool costs now."""

    currency: str = "USD"
    per_hour: str
    per_million_tokens: PerMillionTokens = PerMillionTokens()


class FlavorPrice(StatusModel):
    """What routers charge per million tokens on a flavor: full-load price of pods, list price of endpoints."""

    flavor: str
    input_per_million: str
    output_per_million: str


class Reason(StatusModel):
    """One step of a decision's trail."""

    code: str
    flavor: str | None = None
    detail: str = ""


class LastDecision(StatusModel):
    """The last change of replicas and why."""

    time: datetime
    summary: str
    reasons: Annotated[list[Reason], Field(max_length=16)] = []


class ModelPoolStatus(StatusModel):
    """Written by the operator, on change."""

    observed_generation: int = 0
    replicas: int = 0
    ready: str | None = None
    flavor_summary: str | None = None
    decision_reason: str | None = None
    selector: str | None = None
    served_names: Annotated[list[str], Field(max_length=32)] = []
    tokens_per_second: str | None = None
    flavors: Annotated[list[FlavorStatus], MapKey(("name",)), Field(max_length=8)] = []
    cost: Cost | None = None
    price: Annotated[list[FlavorPrice], MapKey(("flavor",)), Field(max_length=8)] = []
    last_decision: LastDecision | None = None
    conditions: Annotated[list[Condition], MapKey(("type",)), Field(max_length=16)] = []


class ModelPool(Kind):
    """One model, wherever it runs."""

    KIND: ClassVar[str] = "ModelPool"
    PLURAL: ClassVar[str] = "modelpools"
    SHORT: ClassVar[str] = "mp"
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        Column("Model", ".spec.model.name"),
        Column("Ready", ".status.ready"),
        Column("Flavors", ".status.flavorSummary"),
        Column("Tok/s", ".status.tokensPerSecond"),
        Column("$/h", ".status.cost.perHour"),
        Column("$/1M", ".status.cost.perMillionTokens.live"),
        Column("Reason", ".status.decisionReason"),
        Column("Age", ".metadata.creationTimestamp", "date"),
    )
    SCALE: ClassVar[dict[str, str] | None] = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("self.spec.flavors.all(f, has(f.endpoint)) || has(self.spec.engine)", "spec.engine: required when a flavor runs pods"),
        Cel("size(self.metadata.name) <= 40", "metadata.name: at most 40 characters, so that names of children fit"),
    )

    spec: ModelPoolSpec
    status: ModelPoolStatus = ModelPoolStatus()

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> ModelPool:
        """Parse a raw object; raises pydantic.ValidationError naming each path."""
        return cls.model_validate(raw)
