"""Ordered placement of one pool: the first flavor that can hold a replica gets it.

The steps, each small: who is in back-off; what is held where; new replicas go at once to the first flavor with room;
one replica at a time returns to an earlier flavor that had room for ``migrateBack.after``; what is no longer wanted
goes from the least preferred flavor, but never so that fewer replicas serve than before (make-before-break). A rollout
that finds no free device is told in ``rollout.py``; the replica that covers for it is one more that is kept.

A return may exceed ``scaling.max`` by the one replica that replaces another until the new one serves, as a Deployment's
surge does; a flavor's own ``max`` and the class's free devices are never exceeded. Telemetry that is stale moves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from modelfleet.api.conditions import FlavorReason
from modelfleet.api.v1alpha1 import ModelPool
from modelfleet.api.v1alpha1.common import parse_duration
from modelfleet.core.clock import Clock

from .decision import FlavorDecision, PoolDecision
from .facts import EndpointFacts, FlavorFacts, PodFacts, Trouble
from .slots import Slots
from .words import Circumstances, explain_flavors

__all__ = ["Rules", "hold_pool", "place_pool", "wanted_replicas"]

BACKOFF_REASONS = frozenset({FlavorReason.PENDING_TIMEOUT, FlavorReason.QUOTA_EXCEEDED, FlavorReason.PODS_REFUSED, FlavorReason.CRASH_LOOPING})

_REASONS = frozenset(FlavorReason)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the pool's spec says about placement. Times in seconds; ``spec_changed``: not yet planned for, so back-offs of the old spec are void."""

    key: str
    wanted: int
    pending_timeout: float
    return_after: float
    spec_changed: bool

    @classmethod
    def of(cls, pool: ModelPool) -> Rules:
        """The rules of a pool."""
        placement = pool.spec.placement
        return cls(
            key=pool.key,
            wanted=wanted_replicas(pool),
            pending_timeout=parse_duration(placement.pending_timeout),
            return_after=parse_duration(placement.migrate_back.after),
            spec_changed=pool.metadata.generation != pool.status.observed_generation,
        )


@dataclass(slots=True)
class Bench:
    """A flavor while its pool is being planned; lives within one call of ``place_pool``."""

    facts: FlavorFacts
    retry_after: datetime | None = None
    trouble: Trouble | None = None
    held: int = 0
    free_since: datetime | None = None
    target: int = 0
    kept: int = 0
    started_return: bool = False
    cover: int = 0
    chance_ends: datetime | None = None
    in_place: bool = False
    rollout_words: str = ""

    @property
    def resting(self) -> bool:
        """True while the flavor is left alone after it failed, or its endpoint is down."""
        return self.retry_after is not None or (isinstance(self.facts, EndpointFacts) and self.trouble is not None)

    @property
    def serving(self) -> int:
        """Replicas that answer requests now; an endpoint's stand-ins do as soon as they are named."""
        return self.facts.ready if isinstance(self.facts, PodFacts) else self.held


def wanted_replicas(pool: ModelPool) -> int:
    """``spec.replicas`` within ``scaling.min`` and ``scaling.max``."""
    scaling = pool.spec.scaling
    return max(scaling.min, min(pool.spec.replicas, scaling.max))


def place_pool(rules: Rules, facts: Sequence[FlavorFacts], slots: Slots, clock: Clock) -> PoolDecision:
    """Decide a pool; ``slots`` holds what other pools leave, and keeps what this one takes."""
    benches = [Bench(f) for f in facts]
    for bench in benches:
        _back_off(rules, bench, slots, clock)
    _hold(rules, benches, slots)
    unplaced = _grow(rules, benches, slots)
    _return(rules, benches, slots, clock)
    _fill(rules, benches)
    _roll(rules, benches, slots)
    _keep(rules, benches)
    slots.release(rules.key)
    reserve(rules.key, [(b.facts, b.target + b.kept) for b in benches], slots)
    decisions = tuple(FlavorDecision(b.facts, b.target + b.kept, FlavorReason.STANDBY, "", b.free_since, b.retry_after, b.in_place) for b in benches)
    decision = PoolDecision(rules.key, rules.wanted, decisions, unplaced, _timers(rules, benches, clock))
    returning = frozenset(b.facts.name for b in benches if b.started_return or _is_returning(b, benches))
    troubles = {b.facts.name: b.trouble for b in benches if b.trouble is not None}
    rollouts = {b.facts.name: b.rollout_words for b in benches if b.rollout_words}
    return explain_flavors(decision, Circumstances(slots, troubles, returning, rollouts, clock, timedelta(seconds=rules.return_after)))


def hold_pool(rules: Rules, facts: Sequence[FlavorFacts], slots: Slots) -> PoolDecision:
    """A paused pool: everything stays as it is, and says what it said."""
    flavors = []
    for fact in facts:
        desired = fact.committed if isinstance(fact, PodFacts) else fact.stands_in
        before = fact.previous
        reason = _known_reason(before.reason) if before else FlavorReason.STANDBY
        flavors.append(
            FlavorDecision(
                fact, desired, reason, before.message if before else "", before.free_since if before else None, before.retry_after if before else None
            )
        )
    reserve(rules.key, [(f.facts, f.desired) for f in flavors], slots)
    return PoolDecision(rules.key, rules.wanted, tuple(flavors))


def reserve(key: str, wants: Sequence[tuple[FlavorFacts, int]], slots: Slots) -> None:
    """Reserve slots for replicas that do not have their devices yet."""
    for fact, replicas in wants:
        if isinstance(fact, PodFacts) and replicas > fact.bound:
            slots.take(key, fact.class_name, fact.units, replicas - fact.bound)


def _back_off(rules: Rules, bench: Bench, slots: Slots, clock: Clock) -> None:
    fact, before = bench.facts, bench.facts.previous
    if isinstance(fact, EndpointFacts):
        bench.trouble = fact.down
        return
    trouble = fact.trouble
    if trouble and trouble.reason is FlavorReason.PENDING_TIMEOUT and not slots.count(fact.class_name, fact.units, 1):
        trouble = None  # the class is full, which has its own name and its own way out
    elif trouble and trouble.reason is FlavorReason.PENDING_TIMEOUT and fact.rollout.in_place:
        # it waited for its predecessor's device: its own time began when that became free
        bench.free_since = (before.free_since if before else None) or clock.second()
        bench.chance_ends = bench.free_since + timedelta(seconds=rules.pending_timeout)
        trouble = trouble if clock.reached(bench.chance_ends) else None
    running = before.retry_after if before and before.retry_after and not rules.spec_changed and not clock.reached(before.retry_after) else None
    remembered = Trouble(_known_reason(before.reason), before.message) if before and running and before.reason in BACKOFF_REASONS else None
    if trouble and running and remembered and remembered.reason is trouble.reason:
        bench.retry_after, bench.trouble = running, remembered
    elif trouble:
        bench.retry_after = clock.second() + timedelta(seconds=max(rules.pending_timeout, rules.return_after))
        bench.trouble = trouble
    elif running and fact.ready < max(1, rules.wanted):
        bench.retry_after = running
        bench.trouble = remembered or Trouble(FlavorReason.PENDING_TIMEOUT, "replicas did not come up")


def _limit(fact: PodFacts, replicas: int) -> int:
    return replicas if fact.limit is None else min(replicas, fact.limit)


def _room(bench: Bench, slots: Slots, most: int) -> int:
    """Replicas that the flavor could take on now, up to ``most``, whether or not it is resting."""
    fact = bench.facts
    if isinstance(fact, EndpointFacts):
        return 0 if fact.down else most
    most = max(0, _limit(fact, bench.held + most) - bench.held)
    has_device = max(0, fact.bound - bench.held)
    return most if most <= has_device else has_device + slots.count(fact.class_name, fact.units, most - has_device)


def _take(rules: Rules, bench: Bench, replicas: int, slots: Slots) -> None:
    fact = bench.facts
    if isinstance(fact, PodFacts):
        without_device = bench.held + replicas - max(bench.held, fact.bound)
        if without_device > 0:
            slots.take(rules.key, fact.class_name, fact.units, without_device)
    bench.held += replicas


def _hold(rules: Rules, benches: Sequence[Bench], slots: Slots) -> None:
    """Replicas stay where they are while they can."""
    for bench in benches:
        fact = bench.facts
        if isinstance(fact, EndpointFacts):
            bench.held = 0 if bench.resting else min(fact.stands_in, rules.wanted)
        elif bench.resting:
            bench.held = _limit(fact, min(fact.committed, fact.live))
        else:
            _take(rules, bench, min(fact.committed, _limit(fact, _room(bench, slots, fact.committed) + fact.rollout.awaited)), slots)


def _grow(rules: Rules, benches: Sequence[Bench], slots: Slots) -> int:
    """Replicas that nobody holds go to the first flavor with room, and as a last resort to one that is resting. Answers how many are left."""
    spare = max(0, rules.wanted - sum(b.held for b in benches))
    for candidates in ([b for b in benches if not b.resting], [b for b in benches if b.resting]):
        for bench in candidates:
            given = _room(bench, slots, spare)
            _take(rules, bench, given, slots)
            spare -= given
    return spare


def _return(rules: Rules, benches: Sequence[Bench], slots: Slots, clock: Clock) -> None:
    """Keep the timers of flavors that have room while later ones are in use, and start at most one replica back."""
    settled = sum(b.held for b in benches) <= rules.wanted
    for index, bench in enumerate(benches):
        later = sum(b.held for b in benches[index + 1 :])
        before = bench.facts.previous.free_since if bench.facts.previous else None
        if isinstance(bench.facts, EndpointFacts) and not bench.facts.fresh:
            bench.free_since = before if later else None
            continue
        if not later or not _room(bench, slots, 1):
            continue
        bench.free_since = before or clock.second()
        due = bench.free_since + timedelta(seconds=rules.return_after)
        if settled and not bench.resting and clock.reached(due):
            _take(rules, bench, 1, slots)
            bench.started_return, settled = True, False
            if not _room(bench, slots, 1):
                bench.free_since = None


def _fill(rules: Rules, benches: Sequence[Bench]) -> None:
    """Fill in order what is wanted."""
    left = rules.wanted
    for bench in benches:
        bench.target = min(left, bench.held)
        left -= bench.target


def _roll(rules: Rules, benches: Sequence[Bench], slots: Slots) -> None:
    """Rollouts without a free device: who covers, and who replaces in place (``rollout.py``)."""
    waiting = [b for b in benches if _waits(b, slots)]
    under_way = [b for b in waiting if isinstance(b.facts, PodFacts) and b.facts.rollout.in_place]
    for bench in waiting:
        bench.rollout_words = "no device is free for the new revision; it waits for the rollout of another flavor"
    for bench in under_way or waiting[:1]:
        cover = _cover(rules, benches[benches.index(bench) + 1 :], slots)
        bench.in_place = bench in under_way or cover is None or cover.serving > cover.target
        bench.rollout_words = (
            "no device is free for the new revision: replicas are replaced one at a time, each leaves before its successor starts"
            if bench.in_place
            else f"no device is free for the new revision; {cover.facts.name if cover else 'nobody'} starts one replica more before one leaves"
        )


def _waits(bench: Bench, slots: Slots) -> bool:
    fact = bench.facts
    if not isinstance(fact, PodFacts) or not bench.target or (bench.resting and bench.held < fact.committed):
        return False
    begun = fact.rollout.in_place and (fact.rollout.mixed or fact.ready < fact.committed)
    return begun or (bool(fact.rollout.stuck) and not slots.count(fact.class_name, fact.units, 1))


def _cover(rules: Rules, later: Sequence[Bench], slots: Slots) -> Bench | None:
    """The first later flavor that has a replica to spare or room for one; it keeps it."""
    for bench in later:
        if bench.resting:
            continue
        if bench.held <= bench.target and _room(bench, slots, 1):
            _take(rules, bench, 1, slots)
        if bench.held > bench.target:
            bench.cover = 1
            return bench
    return None


def _keep(rules: Rules, benches: Sequence[Bench]) -> None:
    """Beyond what is wanted keep just enough replicas that as many serve as did before, and those that cover for a rollout."""
    serving_before = sum(_serving_before(b) for b in benches)
    missing = min(rules.wanted, serving_before) - sum(min(b.serving, b.target) for b in benches)
    for bench in benches:
        bench.kept = max(0, min(missing, bench.held - bench.target, bench.serving - bench.target))
        missing -= bench.kept
        bench.kept = max(bench.kept, bench.cover)


def _serving_before(bench: Bench) -> int:
    if isinstance(bench.facts, PodFacts):
        return bench.facts.ready
    return min(bench.facts.stands_in, bench.held)


def _is_returning(bench: Bench, benches: Sequence[Bench]) -> bool:
    """True for a flavor whose replicas are coming up while a later flavor is kept only until they serve."""
    position = benches.index(bench)
    coming = isinstance(bench.facts, PodFacts) and bench.target > bench.facts.ready
    return coming and any(b.kept for b in benches[position + 1 :])


def _timers(rules: Rules, benches: Sequence[Bench], clock: Clock) -> tuple[datetime, ...]:
    timers = [b.retry_after for b in benches if b.retry_after]
    timers += [b.free_since + timedelta(seconds=rules.return_after) for b in benches if b.free_since and not b.resting]
    timers += [b.chance_ends for b in benches if b.chance_ends]
    timers += [b.facts.soonest_timeout for b in benches if isinstance(b.facts, PodFacts) and b.facts.soonest_timeout]
    return tuple(sorted(t for t in timers if not clock.reached(t)))


def _known_reason(text: str) -> FlavorReason:
    return FlavorReason(text) if text in _REASONS else FlavorReason.STANDBY
