"""Vocabulary shared by the kinds: CEL markers, scalar types, metadata, conditions.

Money, ratios and percentages are decimal strings; durations are ``90s``/``10m``; enums are CamelCase. ``Cel`` marks carry
rules into the CRD (``api/crdgen.py`` collects them); pydantic repeats only what its types can say, so a model never
accepts what the schema refuses by type, and the API server remains the one judge of cross-field rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

__all__ = [
    "API_VERSION",
    "GROUP",
    "VERSION",
    "Cel",
    "Column",
    "Condition",
    "Duration",
    "Kind",
    "MapKey",
    "Money",
    "Name",
    "ObjectMeta",
    "Percent",
    "SpecModel",
    "StatusModel",
    "parse_duration",
    "parse_money",
]

GROUP = "modelfleet.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


@dataclass(frozen=True, slots=True)
class Cel:
    """One validation rule of the CRD (``x-kubernetes-validations``); ``message`` is what the user reads when it refuses."""

    rule: str
    message: str


@dataclass(frozen=True, slots=True)
class MapKey:
    """Marks a list as ``x-kubernetes-list-type: map`` with these keys."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """One print column: NAME, JSON path and OpenAPI type (``string``, ``integer``, ``date``)."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


class SpecModel(BaseModel):
    """Base of everything a user writes: frozen, camelCase outside, unknown fields and coerced types refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)
    cel: ClassVar[tuple[Cel, ...]] = ()


class StatusModel(BaseModel):
    """Base of everything we write into status: frozen, camelCase outside, unknown fields dropped (an older writer's)."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)
    cel: ClassVar[tuple[Cel, ...]] = ()

    def to_wire(self) -> dict[str, Any]:
        """The JSON form, without absent fields."""
        return self.model_dump(by_alias=True, exclude_none=True, mode="json")


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=63)]
_DURATION = r"^([0-9]{1,6}(h|m|s|ms))+$"
_MONEY = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"

Duration = Annotated[str, StringConstraints(pattern=_DURATION, max_length=16)]
Money = Annotated[str, StringConstraints(pattern=_MONEY, max_length=16)]
Percent = Annotated[str, StringConstraints(pattern=r"^(100(\.0{1,4})?|[0-9]{1,2}(\.[0-9]{1,4})?)%$", max_length=8)]

_DURATION_PART = re.compile(r"([0-9]+)(ms|h|m|s)")
_MILLISECONDS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


def parse_duration(text: str) -> float:
    """Seconds of a duration such as ``90s``, ``1h30m`` or ``250ms``; raises ValueError on anything else."""
    if re.fullmatch(_DURATION.rstrip("$"), text) is None:
        raise ValueError(f"{text[:32]!r} is not a duration: write 90s, 10m or 1h30m")
    return sum(int(number) * _MILLISECONDS[unit] for number, unit in _DURATION_PART.findall(text)) / 1000


def parse_money(text: str) -> int:
    """Micro-dollars of a decimal string (``"6.88"`` -> 6_880_000); raises ValueError on anything else, more than six decimals included."""
    if re.fullmatch(_MONEY.rstrip("$"), text) is None:
        raise ValueError(f"{text[:32]!r} is not an amount of money: write a decimal with at most six places, such as 6.88")
    whole, _, fraction = text.partition(".")
    return int(whole) * 1_000_000 + int(fraction.ljust(6, "0"))


class Condition(StatusModel):
    """A Kubernetes condition; ``reason`` comes from the enums of ``api/conditions.py``."""

    type: Annotated[str, StringConstraints(max_length=64)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, StringConstraints(max_length=128, min_length=1)]
    message: Annotated[str, StringConstraints(max_length=1024)] = ""
    last_transition_time: datetime
    observed_generation: int = 0


class ObjectMeta(BaseModel):
    """The parts of Kubernetes metadata we read. Never generated into a schema: the API server owns it."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None


class Kind(BaseModel):
    """Base of our kinds: what ``api/crdgen.py`` needs to know of one (names, scope, columns, subresources)."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)

    KIND: ClassVar[str]
    PLURAL: ClassVar[str]
    SHORT: ClassVar[str]
    SCOPE: ClassVar[Literal["Namespaced", "Cluster"]] = "Namespaced"
    COLUMNS: ClassVar[tuple[Column, ...]] = ()
    SCALE: ClassVar[dict[str, str] | None] = None
    cel: ClassVar[tuple[Cel, ...]] = ()

    metadata: ObjectMeta

    @property
    def key(self) -> str:
        """``<namespace>/<name>``, or ``<name>`` for a cluster-scoped object: how logs, labels and reasons name it."""
        return f"{self.metadata.namespace}/{self.metadata.name}" if self.metadata.namespace else self.metadata.name

    @property
    def paused(self) -> bool:
        """True when ``modelfleet.dev/paused: "true"`` stops all writes to children."""
        return self.metadata.annotations.get("modelfleet.dev/paused") == "true"
