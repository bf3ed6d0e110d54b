"""Golden pairs: ``<case>.in.yaml`` and ``<case>.out.yaml``. ``UPDATE_GOLDEN=1 pytest ...`` rewrites the second from what the code answers."""

from __future__ import annotations

import os
from dataclasses import asdict, fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from modelfleet.api.parse import InvalidObject, parse
from modelfleet.api.v1alpha1 import KINDS
from modelfleet.core.plan import Plan
from modelfleet.core.world import Defaults, EndpointHealth, Gateway, Node, Pod, Served, Telemetry, Workload, World

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def agrees(path: Path, answer: Any) -> None:
    """Asserts that the file says what ``answer`` says, or rewrites it when asked to."""
    text = yaml.safe_dump(answer, sort_keys=False, width=180, allow_unicode=True)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.exists(), f"{path.name} is missing: run with UPDATE_GOLDEN=1 and read what it writes"
    assert yaml.safe_load(path.read_text()) == yaml.safe_load(text), f"{path.name} differs; if that is meant, run with UPDATE_GOLDEN=1 and review the diff"


def read_world(path: Path) -> World:
    """A world from YAML: ``objects`` of our kinds as the API server sends them, records by their fields."""
    raw = yaml.safe_load(path.read_text())
    kinds = {k.KIND: k for k in KINDS}
    parsed = [parse(kinds[o["kind"]], o) for o in raw.get("objects", ())]
    telemetry = raw.get("telemetry", {})
    return World(
        now=raw["now"],
        pools=tuple(p for p in parsed if type(p).__name__ == "ModelPool"),
        policies=tuple(p for p in parsed if type(p).__name__ == "RoutingPolicy"),
        teams=tuple(p for p in parsed if type(p).__name__ == "AgentTeam"),
        classes=tuple(p for p in parsed if type(p).__name__ == "AcceleratorClass"),
        invalid=tuple(p for p in parsed if isinstance(p, InvalidObject)),
        nodes=tuple(_record(Node, n) for n in raw.get("nodes", ())),
        pods=tuple(_record(Pod, {"requests": {}, "uid": p["name"], **p}) for p in raw.get("pods", ())),
        workloads=tuple(_record(Workload, w) for w in raw.get("workloads", ())),
        gateways=tuple(_record(Gateway, g) for g in raw.get("gateways", ())),
        telemetry=Telemetry(
            served=tuple(_record(Served, s) for s in telemetry.get("served", ())),
            endpoints=tuple(_record(EndpointHealth, e) for e in telemetry.get("endpoints", ())),
            fresh=telemetry.get("fresh", False),
        ),
        defaults=_record(Defaults, raw.get("defaults", {})),
    )


def plan_to_yaml(plan: Plan, *, manifests: bool) -> dict[str, Any]:
    """A plan as plain data, without what is empty; without ``manifests`` the children are Deployments and their replicas."""
    data = _plain(plan)
    if not manifests:
        data["children"] = {c["metadata"]["name"]: c["spec"]["replicas"] for c in data["children"] if c["kind"] == "Deployment"}
    return {name: value for name, value in data.items() if value not in ([], {}, None)}


def _record(kind: type[Any], values: dict[str, Any]) -> Any:
    unknown = set(values) - {f.name for f in fields(kind)}
    assert not unknown, f"{kind.__name__} has no {sorted(unknown)}"
    return kind(**values)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, datetime | None):
        return value.isoformat() if value else None
    return str(value) if isinstance(value, str) else value
