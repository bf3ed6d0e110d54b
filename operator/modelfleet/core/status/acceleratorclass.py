"""Status of an AcceleratorClass: its nodes and devices, counted.

A class without nodes is normal and not an error, so it is Ready like any other: a GitOps controller that applies the catalogue and waits for Ready
would else wait for hardware that the cluster does not have.
"""

from __future__ import annotations

from typing import Any

from modelfleet.api.conditions import AcceleratorClassReason, ConditionType
from modelfleet.api.v1alpha1 import AcceleratorClass
from modelfleet.api.v1alpha1.acceleratorclass import AcceleratorClassStatus, DeviceCounts
from modelfleet.core.catalogue.offers import ClassOffer
from modelfleet.core.clock import Clock

from .conditions import Finding, merge_conditions

__all__ = ["acceleratorclass_status", "device_counts"]


def acceleratorclass_status(accelerator: AcceleratorClass, offer: ClassOffer, pending_pods: int, clock: Clock) -> dict[str, Any]:
    """The whole status. ``pending_pods``: model servers that wait for a device of the class."""
    counts = device_counts(offer, pending_pods)
    generation = accelerator.metadata.generation
    finding = (
        Finding(ConditionType.READY, True, AcceleratorClassReason.NODES_MATCHED, f"nodes: {len(offer.nodes)}")
        if offer.nodes
        else Finding(ConditionType.READY, True, AcceleratorClassReason.NO_MATCHING_NODES, "no node of the cluster matches; nothing is wrong with the class")
    )
    return AcceleratorClassStatus(
        observed_generation=generation,
        nodes=len(offer.nodes),
        devices=counts,
        conditions=merge_conditions(accelerator.status.conditions, [finding], clock, generation),
    ).to_wire()


def device_counts(offer: ClassOffer, pending_pods: int) -> DeviceCounts:
    """Devices of the class over its nodes; on a cpu class whole cores, rounded down node by node."""
    free = [offer.devices(n.free) for n in offer.nodes]
    return DeviceCounts(
        capacity=sum(offer.devices(n.capacity) for n in offer.nodes),
        allocatable=sum(offer.devices(n.allocatable) for n in offer.nodes),
        requested=sum(-(-n.requested // offer.unit) for n in offer.nodes),
        free=sum(free),
        largest_free_on_one_node=max(free, default=0),
        pending_pods=pending_pods,
    )
