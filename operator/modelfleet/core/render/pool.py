"""All children of a pool, from its decision."""

from __future__ import annotations

from modelfleet.core.placement.decision import PoolDecision
from modelfleet.core.placement.surroundings import Surroundings
from modelfleet.core.plan import Manifest

from .deployment import deployment
from .service import service

__all__ = ["children_of", "held_flavors"]


def children_of(near: Surroundings, decision: PoolDecision) -> tuple[Manifest, ...]:
    """A Deployment and a Service per pod flavor whose class is known; without the class its pods cannot be described."""
    pool, engine = near.pool, near.pool.spec.engine
    if engine is None:
        return ()
    children: list[Manifest] = []
    for flavor, accelerator in zip(pool.spec.flavors, near.classes, strict=True):
        if accelerator is not None:
            placed = decision.flavor(flavor.name)
            children += [
                deployment(pool, engine, flavor, accelerator, replicas=placed.deployment_replicas, defaults=near.defaults, in_place=placed.in_place),
                service(pool, engine, flavor),
            ]
    return tuple(children)


def held_flavors(near: Surroundings, decision: PoolDecision) -> frozenset[str]:
    """``<namespace>/<pool>/<flavor>`` of flavors that cannot be described and whose children stay.

    A class deleted by mistake must not stop a model, nor a flavor removed from the spec before the others serve.
    """
    pool = near.pool
    classless = [f.name for f, known in zip(pool.spec.flavors, near.classes, strict=True) if f.accelerator_class is not None and known is None]
    return frozenset(f"{pool.key}/{name}" for name in (*classless, *(f.name for f in decision.leaving if f.held)))
