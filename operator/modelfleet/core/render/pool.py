"""All children of a pool, from its decision."""

from __future__ import annotations

from collections.abc import Mapping

from modelfleet.api.v1alpha1 import AcceleratorClass, ModelPool
from modelfleet.core.placement.decision import PoolDecision
from modelfleet.core.plan import Manifest
from modelfleet.core.world import Defaults

from .deployment import deployment
from .service import service

__all__ = ["children_of", "held_flavors"]


def children_of(pool: ModelPool, decision: PoolDecision, classes: Mapping[str, AcceleratorClass], defaults: Defaults) -> tuple[Manifest, ...]:
    """A Deployment and a Service per pod flavor whose class is known; without the class its pods cannot be described."""
    engine = pool.spec.engine
    if engine is None:
        return ()
    children: list[Manifest] = []
    for flavor in pool.spec.flavors:
        accelerator = classes.get(flavor.accelerator_class or "")
        if accelerator is not None:
            placed = decision.flavor(flavor.name)
            children += [
                deployment(pool, engine, flavor, accelerator, replicas=placed.deployment_replicas, defaults=defaults, in_place=placed.in_place),
                service(pool, engine, flavor),
            ]
    return tuple(children)


def held_flavors(pool: ModelPool, decision: PoolDecision, classes: Mapping[str, AcceleratorClass]) -> frozenset[str]:
    """``<namespace>/<pool>/<flavor>`` of flavors that cannot be described and whose children stay.

    A class deleted by mistake must not stop a model, nor a flavor removed from the spec before the others serve.
    """
    classless = [f.name for f in pool.spec.flavors if f.accelerator_class is not None and f.accelerator_class not in classes]
    return frozenset(f"{pool.key}/{name}" for name in (*classless, *(f.name for f in decision.leaving if f.held)))
