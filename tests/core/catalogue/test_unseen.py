"""Nodes and slices that nobody recorded (`unseen.yaml`): read on meaning, the answer was written first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from modelfleet.core.catalogue.recognise import recognise

CASES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "unseen.yaml").read_text())


def objects_of(case: dict[str, Any]) -> dict[str, Any]:
    """The Node, or the ResourceSlice in the shape of v1."""
    if "driver" not in case:
        metadata = {"name": "n", "labels": case.get("labels", {})}
        return {"kind": "Node", "metadata": metadata, "spec": {"taints": case.get("taints", [])}, "status": {"capacity": case.get("capacity", {})}}
    devices = [
        {
            "name": f"d{index}",
            "attributes": {k: {type(v).__name__: v} for k, v in device.get("attributes", {}).items()},
            "capacity": {k: {"value": v} for k, v in device.get("capacity", {}).items()},
        }
        for index, device in enumerate(case["devices"])
    ]
    return {"kind": "ResourceSlice", "metadata": {"name": "s"}, "spec": {"driver": case["driver"], "pool": {"resourceSliceCount": 1}, "devices": devices}}


@pytest.mark.parametrize("case", CASES, ids=[c["name"] for c in CASES])
def test_unseen(case: dict[str, Any]) -> None:
    part, devices, memory = case["expect"]
    found = recognise(objects_of(case))
    assert (found.part, "unknown" if found.devices is None else found.devices) == (part, devices)
    if memory == "unknown":
        assert found.memory_gib is None
    else:
        assert found.memory_gib is not None
        assert abs(float(found.memory_gib) - memory) <= 0.08 * memory


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({c["name"] for c in CASES}) == len(CASES) >= 60
