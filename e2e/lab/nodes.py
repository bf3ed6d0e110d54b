"""The kinds of node the lab offers: what a node of each kind says about itself, copied from recorded real nodes.

Labels only; the devices are a number in the node's status, kept by the kubelet and counted by the scheduler.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from e2e.lab.steps import LabError

GPU_RESOURCE: Final = "nvidia.com/gpu"
GPU_TAINT: Final = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}

# Facts from NVIDIA/cloud-native-docs, gpu-operator/manifests/output/mig-node-labels.json @ 52dcb7b8d956784344e241df476de17094a4574c:
# the labels of GPU feature discovery on a single-H100 machine with MIG off, less roles and driver details.
_H100: Final = {
    "feature.node.kubernetes.io/pci-10de.present": "true",
    "nvidia.com/cuda.driver-version.full": "550.54.15",
    "nvidia.com/cuda.runtime-version.full": "12.4",
    "nvidia.com/gpu.compute.major": "9",
    "nvidia.com/gpu.compute.minor": "0",
    "nvidia.com/gpu.count": "1",
    "nvidia.com/gpu.family": "hopper",
    "nvidia.com/gpu.machine": "PIO-4124GS-TNR-01-NC24B",
    "nvidia.com/gpu.memory": "81559",
    "nvidia.com/gpu.present": "true",
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "nvidia.com/gpu.replicas": "1",
    "nvidia.com/gpu.sharing-strategy": "none",
    "nvidia.com/mig.capable": "true",
    "nvidia.com/mig.config": "all-disabled",
    "nvidia.com/mig.config.state": "success",
    "nvidia.com/mig.strategy": "single",
    "nvidia.com/mps.capable": "false",
}

# Facts from the page "Serving Qwen2 with GKE and GPU and TPU fungibility" (a G2 node's GKE labels) and, for the nvidia.com ones, from
# NVIDIA's L4 (Ada Lovelace, compute 8.9, 23034 MiB as its driver tells).
_L4: Final = {
    "cloud.google.com/gke-accelerator": "nvidia-l4",
    "cloud.google.com/gke-gpu": "true",
    "cloud.google.com/machine-family": "g2",
    "node.kubernetes.io/instance-type": "g2-standard-24",
    "nvidia.com/gpu.compute.major": "8",
    "nvidia.com/gpu.compute.minor": "9",
    "nvidia.com/gpu.count": "2",
    "nvidia.com/gpu.family": "ada-lovelace",
    "nvidia.com/gpu.memory": "23034",
    "nvidia.com/gpu.present": "true",
    "nvidia.com/gpu.product": "NVIDIA-L4",
    "nvidia.com/gpu.replicas": "1",
    "nvidia.com/gpu.sharing-strategy": "none",
}

KINDS: Final[Mapping[str, Mapping[str, str]]] = {"cpu": {}, "h100": _H100, "l4": _L4}
DEFAULT: Final = "cpu,h100:1,l4:2"


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node to run: its name, its place (1, 2, ...; gives its addresses), its kind and its devices."""

    name: str
    index: int
    kind: str
    devices: int

    @property
    def labels(self) -> dict[str, str]:
        labels = dict(KINDS[self.kind])
        if "nvidia.com/gpu.count" in labels:
            labels["nvidia.com/gpu.count"] = str(self.devices)
        return labels

    @property
    def taints(self) -> list[dict[str, str]]:
        return [GPU_TAINT] if self.kind != "cpu" else []

    @property
    def pod_cidr(self) -> str:
        return f"10.244.{self.index}.0/24"

    @property
    def address(self) -> str:
        return f"10.245.0.{10 + self.index}"


def parse_nodes(text: str) -> tuple[NodeSpec, ...]:
    """Read `cpu,h100:1,l4:2`; a second node of a kind is called `l4-2`. Raises LabError for a kind the lab does not have."""
    nodes: list[NodeSpec] = []
    for index, word in enumerate((w.strip() for w in text.split(",")), start=1):
        match = re.fullmatch(r"([a-z0-9]+)(?::(\d+))?", word)
        if match is None or match[1] not in KINDS:
            raise LabError(f"there is no node kind {word!r}: write kinds among {', '.join(KINDS)}, each with :<devices> if it has any, separated by commas")
        kind = match[1]
        devices = 0 if kind == "cpu" else int(match[2] or 1)
        same = sum(1 for n in nodes if n.kind == kind)
        nodes.append(NodeSpec(kind if not same else f"{kind}-{same + 1}", index, kind, devices))
    return tuple(nodes)
