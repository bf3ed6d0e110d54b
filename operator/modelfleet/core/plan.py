"""Plan: everything one cycle wants to be true, and why. Complete: an unpaused pool's child that is not here is pruned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Event", "GatewayEntry", "Manifest", "NodeLabel", "Plan", "StatusWrite"]

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NodeLabel:
    """The value that ``modelfleet.dev/accelerator-class`` must have on a node; None: the label must be absent."""

    node: str
    accelerator_class: str | None


@dataclass(frozen=True, slots=True)
class StatusWrite:
    """A whole status (what the operator owns of it) to apply. ``kind`` is one of our four."""

    kind: str
    namespace: str
    name: str
    status: Manifest


@dataclass(frozen=True, slots=True)
class Event:
    """An Event to emit; equal events within two minutes are one."""

    kind: str
    namespace: str
    name: str
    uid: str
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class GatewayEntry:
    """An entry of ``status.gateways`` whose pod is gone: to be removed from the status of a RoutingPolicy or AgentTeam."""

    kind: str
    namespace: str
    name: str
    gateway: str


@dataclass(frozen=True, slots=True)
class Plan:
    """See the module. ``held`` are keys of paused pools: their children are neither applied nor pruned. ``recheck_after`` in seconds.

    ``held_flavors``: ``<namespace>/<pool>/<flavor>`` of flavors whose class is missing, or that left the spec and still serve: not among
    ``children``, and not to be pruned either.
    """

    children: tuple[Manifest, ...] = ()
    held: frozenset[str] = frozenset()
    held_flavors: frozenset[str] = frozenset()
    node_labels: tuple[NodeLabel, ...] = ()
    statuses: tuple[StatusWrite, ...] = ()
    vanished_gateways: tuple[GatewayEntry, ...] = ()
    events: tuple[Event, ...] = ()
    recheck_after: float | None = None
