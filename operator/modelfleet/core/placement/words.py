"""Why each flavor is where it is: the reason and the sentence beside every count of a plan.

A sentence is stable while its cause is: the moment since which a class is full is carried over from the sentence before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from modelfleet.api.conditions import FlavorReason
from modelfleet.core.catalogue.match import CPU
from modelfleet.core.clock import Clock

from .decision import FlavorDecision, PoolDecision
from .facts import EndpointFacts, PodFacts, Trouble
from .slots import Room, Slots

__all__ = ["Circumstances", "explain_flavors"]

_SINCE = re.compile(r" since (\d\d:\d\d)$")
MAX_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the words are drawn from beside the decision.

    ``slots``: what is left after it; ``returning``: flavors that replicas are coming back to;
    ``rollouts``: what is said of flavors whose rollout waits for a device.
    """

    slots: Slots
    troubles: Mapping[str, Trouble]
    returning: frozenset[str]
    rollouts: Mapping[str, str]
    clock: Clock
    return_after: timedelta


def explain_flavors(decision: PoolDecision, about: Circumstances) -> PoolDecision:
    """The decision with a reason and a sentence on each flavor."""
    flavors: list[FlavorDecision] = []
    for index, flavor in enumerate(decision.flavors):
        needed = sum(f.desired for f in decision.flavors[index + 1 :]) + decision.unplaced > 0
        reason, message = _why_no_more(flavor, about, needed=needed)
        if flavor.name in about.rollouts and flavor.name not in about.troubles:
            reason, message = FlavorReason.ROLLOUT_WAITS_FOR_DEVICE, about.rollouts[flavor.name]
        elif flavor.name in about.returning:
            reason, message = FlavorReason.MIGRATING_BACK, f"starting; {_names_of_used(decision, index)} serves until it is ready"
        elif flavor.desired > 0 and flavor.name not in about.troubles:
            reason, message = _why_used(decision, flavors, flavor, "" if reason is FlavorReason.STANDBY else message)
        flavors.append(replace(flavor, reason=reason, message=message[:MAX_MESSAGE]))
    return replace(decision, flavors=tuple(flavors))


def _why_used(decision: PoolDecision, earlier: Sequence[FlavorDecision], flavor: FlavorDecision, why_no_more: str) -> tuple[FlavorReason, str]:
    if not earlier:
        return FlavorReason.PREFERRED, f"holds {flavor.desired} of {decision.wanted}: {why_no_more}" if why_no_more else ""
    if sum(e.desired for e in earlier) >= decision.wanted:
        return FlavorReason.FALLBACK, "serves until the preferred replicas are ready"
    return FlavorReason.FALLBACK, "; ".join(f"{e.name}: {e.message or e.reason}" for e in earlier)


def _why_no_more(flavor: FlavorDecision, about: Circumstances, *, needed: bool) -> tuple[FlavorReason, str]:
    facts, trouble = flavor.facts, about.troubles.get(flavor.name)
    if trouble is not None:
        return trouble.reason, trouble.message
    if isinstance(facts, EndpointFacts):
        if flavor.free_since is None:
            return FlavorReason.STANDBY, ""
        return FlavorReason.WAITING_TO_RETURN, f"reachable since {_clock(flavor.free_since)}; returns at {_clock(flavor.free_since + about.return_after)}"
    if facts.resource is None:
        return FlavorReason.CLASS_NOT_FOUND, f"there is no usable AcceleratorClass {facts.class_name}"
    if needed:
        return _cannot_hold_more(flavor, facts, about)
    return (FlavorReason.DRAINING, f"{facts.draining} leaving") if facts.draining and not flavor.desired else (FlavorReason.STANDBY, "")


def _cannot_hold_more(flavor: FlavorDecision, facts: PodFacts, about: Circumstances) -> tuple[FlavorReason, str]:
    room = about.slots.room(facts.class_name, facts.units)
    if not room.nodes:
        return FlavorReason.NO_MATCHING_NODES, f"no node has devices of {facts.class_name} since {_since(flavor, FlavorReason.NO_MATCHING_NODES, about.clock)}"
    if facts.limit is not None and flavor.desired >= facts.limit:
        return FlavorReason.AT_MAX, f"at its max of {facts.limit}"
    if flavor.free_since is not None:
        due = _clock(flavor.free_since + about.return_after)
        return FlavorReason.WAITING_TO_RETURN, f"{facts.class_name} has had a free device since {_clock(flavor.free_since)}; returns at {due}"
    return FlavorReason.NO_FREE_DEVICE, f"{_free_of(facts, room, about.slots)} since {_since(flavor, FlavorReason.NO_FREE_DEVICE, about.clock)}"


def _free_of(facts: PodFacts, room: Room, slots: Slots) -> str:
    free, unit = room.free_devices, 1000 if facts.resource == CPU else 1
    text = f"{free} of {room.allocatable_devices} {'cores' if unit > 1 else 'devices'} free ({facts.class_name})"
    if not free:
        return text
    if room.fits and not slots.count(facts.class_name, facts.units, 1):
        return f"{text}, promised to other replicas"
    return f"{text}, {facts.units / unit:g} needed on one node"


def _since(flavor: FlavorDecision, reason: FlavorReason, clock: Clock) -> str:
    before = flavor.facts.previous
    said = _SINCE.search(before.message) if before and (before.reason == reason or before.message.startswith("holds ")) else None
    return said.group(1) if said else _clock(clock.second())


def _clock(moment: datetime) -> str:
    return f"{moment:%H:%M}"


def _names_of_used(decision: PoolDecision, index: int) -> str:
    return " and ".join(f.name for f in decision.flavors[index + 1 :] if f.desired) or "nobody else"
