"""What a plan hands to the next one: finished parts, each with everything it was made of.

A part is taken over when what it was made of is equal and the moment lies in its span, and is made anew otherwise; so a memory may be old, or of another
world, and costs nothing but time. It is a value: nothing here is changed once made, and it holds one world's parts and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from modelfleet.api.v1alpha1 import AcceleratorClass, ModelPool
from modelfleet.core.catalogue.offers import Catalogue
from modelfleet.core.clock import Clock, Span
from modelfleet.core.placement.fleet import Placed
from modelfleet.core.placement.surroundings import Neighbourhood
from modelfleet.core.plan import Event, Manifest, StatusWrite
from modelfleet.core.render.labels import POOL
from modelfleet.core.render.pool import children_of, held_flavors
from modelfleet.core.routing.ir import Problem
from modelfleet.core.status.events import pool_events
from modelfleet.core.status.figures import figures_of
from modelfleet.core.status.modelpool import modelpool_status
from modelfleet.core.teams.ir import TeamsPlan

__all__ = ["NOTHING", "Compiled", "Memory", "Outcome", "Written", "known_classes", "outcome_of", "written"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What follows from a pool's placement."""

    placed: Placed
    children: tuple[Manifest, ...]
    held_flavors: frozenset[str]
    status: StatusWrite
    events: tuple[Event, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Written:
    """A status, and what it was made of."""

    of: tuple[object, ...]
    write: StatusWrite
    span: Span


@dataclass(frozen=True, slots=True)
class Compiled:
    """Teams, and what is wrong with policies, and what these were compiled from."""

    of: tuple[object, ...]
    teams: TeamsPlan
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """See the module. ``statuses`` of classes and policies by kind and key; the rest by name or key of a pool."""

    classes: Mapping[str, AcceleratorClass] = field(default_factory=dict)
    catalogue: Catalogue = field(default_factory=Catalogue)
    neighbourhood: Neighbourhood = field(default_factory=Neighbourhood)
    placed: Mapping[str, Placed] = field(default_factory=dict)
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    statuses: Mapping[tuple[str, str], Written] = field(default_factory=dict)
    compiled: Compiled | None = None


NOTHING = Memory()


def known_classes(classes: Iterable[AcceleratorClass], memory: Memory) -> dict[str, AcceleratorClass]:
    """Classes by name, sorted; one whose spec is as it was is the very object that memory has, since nobody who gets these reads a class's status."""
    found = {}
    for accelerator in sorted(classes, key=lambda c: c.metadata.name):
        known = memory.classes.get(accelerator.metadata.name)
        found[accelerator.metadata.name] = known if known is not None and known.spec == accelerator.spec else accelerator
    return found


def outcome_of(placed: Placed, before: Outcome | None, now: datetime) -> Outcome:
    """Children, status and events of a pool; the same object while nothing has changed. A paused pool has a status and nothing else."""
    if before is not None and before.placed is placed and before.span.holds(now):
        return before
    near, decision, clock = placed.seen.near, placed.decision, Clock(now)
    pool = near.pool
    status = modelpool_status(pool, decision, figures_of(near, decision), f"{POOL}={pool.metadata.name}", clock)
    active = not pool.paused
    return Outcome(
        placed,
        children_of(near, decision) if active else (),
        held_flavors(near, decision) if active else frozenset(),
        StatusWrite(ModelPool.KIND, pool.metadata.namespace, pool.metadata.name, status),
        tuple(pool_events(pool, decision)) if active else (),
        clock.span,
    )


def written(before: Written | None, of: tuple[object, ...], now: datetime, write: Callable[[Clock], StatusWrite]) -> Written:
    """A status made of ``of`` by ``write``, which reads nothing else but its clock; the same object while nothing has changed."""
    if before is not None and before.of == of and before.span.holds(now):
        return before
    clock = Clock(now)
    status = write(clock)
    return Written(of, status, clock.span)
