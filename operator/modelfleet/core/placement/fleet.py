"""Placement of every pool of a world: who is planned when, and who gets a scarce device.

Replicas keep the devices they have. Slots for replicas that were promised earlier and are not scheduled yet are set
aside first, then pools are planned in order of their key; each sees what the others leave.

A pool is placed once: while its surroundings are equal, the moment lies in the span that it was decided for, and the ledger answers all it asked as it did
then, the decision stands, and its draws are made as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from modelfleet.core.catalogue.offers import Catalogue
from modelfleet.core.clock import Clock, Span

from .decision import PoolDecision
from .facts import FlavorFacts, PodFacts, facts_of
from .leaving import leaving_of
from .ordered import Rules, hold_pool, place_pool, reserve
from .slots import Draw, Slots
from .surroundings import Surroundings

__all__ = ["Placed", "Seen", "place_fleet"]


@dataclass(frozen=True, slots=True)
class Seen:
    """The facts of a pool, for as long as they hold; ``promised``: replicas of flavors that are not scheduled yet."""

    near: Surroundings
    facts: tuple[FlavorFacts, ...]
    promised: tuple[tuple[PodFacts, int], ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Placed:
    """A pool's decision with all that it rests on."""

    seen: Seen
    decision: PoolDecision
    draws: tuple[Draw, ...]
    span: Span


def place_fleet(near: Iterable[Surroundings], catalogue: Catalogue, now: datetime, before: Mapping[str, Placed]) -> Mapping[str, Placed]:
    """The decision for each pool, by key; ``near`` is sorted by key. ``before``: what an earlier plan decided, taken over where it still stands."""
    slots = Slots(catalogue)
    seen = []
    for each in near:
        known = before.get(each.key)
        seen.append(
            known.seen if known is not None and known.seen.span.holds(now) and (known.seen.near is each or known.seen.near == each) else _see(each, now)
        )
        if seen[-1].promised:
            reserve(each.key, seen[-1].promised, slots)
    placed = {}
    for pool in seen:
        key = pool.near.key
        slots.release(key)
        known = before.get(key)
        stands = known is not None and known.seen is pool and known.span.holds(now) and slots.replay(key, known.draws)
        placed[key] = known if known is not None and stands else _place(pool, slots, now)
    return placed


def _see(near: Surroundings, now: datetime) -> Seen:
    clock = Clock(now)
    facts = facts_of(near, clock)
    promised = [(f, min(f.committed, f.limit) if f.limit is not None else f.committed) for f in facts if isinstance(f, PodFacts)]
    return Seen(near, facts, tuple((f, replicas) for f, replicas in promised if replicas > f.bound), clock.span)


def _place(seen: Seen, slots: Slots, now: datetime) -> Placed:
    pool, clock = seen.near.pool, Clock(now)
    rules = Rules.of(pool)
    slots.begin()
    untouched = pool.paused or pool.metadata.deletion_timestamp is not None
    decision = hold_pool(rules, seen.facts, slots) if untouched else place_pool(rules, seen.facts, slots, clock)
    decision = replace(decision, leaving=leaving_of(seen.near, decision))
    return Placed(seen, decision, slots.draws, clock.span)
