"""AcceleratorClass: the catalogue. What a class of hardware is, how its nodes are recognised, what a device costs."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from .common import Cel, Column, Condition, Kind, MapKey, Money, SpecModel, StatusModel

__all__ = [
    "AcceleratorClass",
    "AcceleratorClassSpec",
    "AcceleratorClassStatus",
    "DeviceCounts",
    "Hardware",
    "LabelRequirement",
    "NodeEntry",
    "Price",
    "Toleration",
]

LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=253)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]


class LabelRequirement(SpecModel):
    """One requirement on a node label. ``Matches`` takes shell globs, ``Gte`` and ``Lt`` one number."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "self.operator in ['Exists', 'DoesNotExist'] ? !has(self.values) || size(self.values) == 0 : has(self.values) && size(self.values) > 0",
            "values: Exists and DoesNotExist take none, every other operator needs at least one",
        ),
        Cel(
            "!(self.operator in ['Gte', 'Lt']) || (has(self.values) && size(self.values) == 1 && self.values[0].matches('^[0-9]{1,15}$'))",
            'values: Gte and Lt take exactly one whole number, such as ["79000"]',
        ),
    )

    key: LabelKey
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Matches", "Gte", "Lt"]
    values: Annotated[list[LabelValue] | None, Field(max_length=32)] = None


class Hardware(SpecModel):
    """What a node must have, read on meaning: its labels, resources and machine type, however its platform writes them.

    ``catalogueId`` is what ``modelfleet catalogue match`` prints. ``unit``: what one unit of the resource is (a whole device, or less);
    ``profile``: which, such as ``1g.10gb``, ``DPX`` or ``40C``; absent: any.
    """

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("self.unit in ['MigSlice', 'VirtualGpu', 'Partition'] || !has(self.profile)", "hardware.profile: only with unit MigSlice, VirtualGpu or Partition"),
    )

    catalogue_id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]
    unit: Literal["Device", "MigSlice", "TimeSlice", "VirtualGpu", "Partition", "Share", "SliceHost"] = "Device"
    profile: Annotated[str, StringConstraints(min_length=1, max_length=63)] | None = None


class NodeEntry(SpecModel):
    """One way to recognise a node of this class: all parts must hold. ``resource`` is counted per node (``cpu`` counts cores)."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "self.resource != 'cpu' || has(self.hardware) || has(self.matchLabels) && size(self.matchLabels) > 0"
            " || has(self.matchExpressions) && size(self.matchExpressions) > 0",
            "a cpu entry needs hardware, matchLabels or matchExpressions: without them every node would match",
        ),
    )

    resource: Annotated[str, StringConstraints(pattern=r"^(cpu|[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)$", max_length=128)]
    hardware: Hardware | None = None
    match_labels: Annotated[dict[str, LabelValue] | None, Field(max_length=16)] = None
    match_expressions: Annotated[list[LabelRequirement] | None, Field(max_length=16)] = None


class Price(SpecModel):
    """What one device costs per hour (for a cpu class: one core), and where the figure comes from."""

    per_device_hour: Money
    currency: Literal["USD"] = "USD"
    source: Annotated[str, StringConstraints(max_length=128)] | None = None


class Toleration(SpecModel):
    """A toleration that pods on this class carry, as in the Pod API."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("self.operator != 'Exists' || !has(self.value) || self.value == ''", "a toleration with operator Exists takes no value"),
        Cel("self.operator == 'Exists' || (has(self.key) && self.key != '')", "a toleration without key tolerates every taint and needs operator Exists"),
    )

    key: Annotated[str, StringConstraints(max_length=253)] | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class AcceleratorClassSpec(SpecModel):
    """What the hardware is, how its nodes are recognised, what a device costs and which taints its pods tolerate."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("self.nodes.all(n, n.resource == self.nodes[0].resource)", "nodes: all entries of a class count one resource; make a class per resource"),
    )

    vendor: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    device: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    nodes: Annotated[list[NodeEntry], Field(min_length=1, max_length=16)]
    price: Price | None = None
    tolerations: Annotated[list[Toleration] | None, Field(max_length=16)] = None


class DeviceCounts(StatusModel):
    """Devices of the class over its nodes, now. ``free`` = allocatable - requested, on nodes that are Ready and schedulable."""

    capacity: int = 0
    allocatable: int = 0
    requested: int = 0
    free: int = 0
    largest_free_on_one_node: int = 0
    pending_pods: int = 0


class AcceleratorClassStatus(StatusModel):
    """Written by the operator, on change."""

    observed_generation: int = 0
    nodes: int = 0
    devices: DeviceCounts = DeviceCounts()
    conditions: Annotated[list[Condition], MapKey(("type",)), Field(max_length=16)] = []


class AcceleratorClass(Kind):
    """A class of hardware; cluster-scoped."""

    KIND: ClassVar[str] = "AcceleratorClass"
    PLURAL: ClassVar[str] = "acceleratorclasses"
    SHORT: ClassVar[str] = "acc"
    SCOPE: ClassVar[Literal["Namespaced", "Cluster"]] = "Cluster"
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        Column("Vendor", ".spec.vendor"),
        Column("Device", ".spec.device"),
        Column("Nodes", ".status.nodes", "integer"),
        Column("Free", ".status.devices.free", "integer"),
        Column("$/Device-h", ".spec.price.perDeviceHour"),
        Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
        Column("Age", ".metadata.creationTimestamp", "date"),
    )

    cel: ClassVar[tuple[Cel, ...]] = (Cel("size(self.metadata.name) <= 63", "metadata.name: at most 63 characters, so that it fits a node label"),)

    spec: AcceleratorClassSpec
    status: AcceleratorClassStatus = AcceleratorClassStatus()
