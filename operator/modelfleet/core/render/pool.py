"""All children of a pool, from its decision."""

from __future__ import annotations

from collections.abc import Mapping

from modelfleet.api.v1alpha1 import AcceleratorClass, ModelPool
from modelfleet.core.placement.decision import PoolDecision
from modelfleet.core.plan import Manifest
from modelfleet.core.world import Defaults

from .deployment import deployment
from .service import service

__all__ = ["children_of", "flavors_without_class"]


def children_of(pool: ModelPool, decision: PoolDecision, classes: Mapping[str, AcceleratorClass], defaults: Defaults) -> tuple[Manifest, ...]:
    """A Deployment and a Service per pod flavor whose class is known; without the class its pods cannot be described."""
    engine = pool.spec.engine
    if engine is None:
        return ()
    children: list[Manifest] = []
    for flavor in pool.spec.flavors:
        accelerator = classes.get(flavor.accelerator_class or "")
        if accelerator is not None:
            replicas = decision.flavor(flavor.name).deployment_replicas
            children += [deployment(pool, engine, flavor, accelerator, replicas=replicas, defaults=defaults), service(pool, engine, flavor)]
    return tuple(children)


def flavors_without_class(pool: ModelPool, classes: Mapping[str, AcceleratorClass]) -> frozenset[str]:
    """``<namespace>/<pool>/<flavor>`` of pod flavors whose class is missing: a class deleted by mistake must not stop a model."""
    return frozenset(f"{pool.key}/{f.name}" for f in pool.spec.flavors if f.accelerator_class is not None and f.accelerator_class not in classes)
