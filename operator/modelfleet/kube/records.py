"""skeleton (body arrives in minutes): see signatures."""

from __future__ import annotations

from typing import Any

from modelfleet.core.world import Node, Pod, Workload


def node_of(raw: dict[str, Any]) -> Node: ...
def pod_of(raw: dict[str, Any]) -> Pod: ...
def workload_of(raw: dict[str, Any]) -> Workload | None: ...
