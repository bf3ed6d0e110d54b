"""What a plan would change, without changing it: the comparison that ``kube/apply.py`` makes before each write, told instead of done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modelfleet.core.plan import Manifest, Plan
from modelfleet.core.render.labels import ACCELERATOR_CLASS, POOL
from modelfleet.kube.apply import may_prune
from modelfleet.kube.compare import covers, drops
from modelfleet.kube.mirror import Mirror
from modelfleet.kube.resources import object_key

__all__ = ["Change", "changes_of"]


@dataclass(frozen=True, slots=True)
class Change:
    """One write that would happen. ``fields``: ``path: old -> new`` of what an apply would alter."""

    kind: str
    namespace: str
    name: str
    action: Literal["apply", "delete", "label"]
    fields: tuple[str, ...] = ()


def changes_of(plan: Plan, mirror: Mirror) -> tuple[Change, ...]:
    """The writes to children and nodes that acting on ``plan`` would make, sorted. Status follows them and is not listed."""
    found = [*_applies(plan, mirror), *_deletes(plan, mirror), *_labels(plan, mirror)]
    return tuple(sorted(found, key=lambda c: (c.kind, c.namespace, c.name, c.action)))


def _applies(plan: Plan, mirror: Mirror) -> Iterator[Change]:
    for manifest in plan.children:
        metadata = manifest["metadata"]
        if object_key(metadata["namespace"], metadata["labels"][POOL]) in plan.held:
            continue
        wanted = {"metadata": {k: v for k, v in metadata.items() if k not in ("name", "namespace")}, "spec": manifest["spec"]}
        observed = mirror.child(manifest["kind"], object_key(metadata["namespace"], metadata["name"]))
        if observed is None:
            yield _change(manifest, ("not there yet",))
        elif not covers(observed.desired, wanted) or drops(observed.owned, wanted):
            yield _change(manifest, tuple(_differences(observed.desired, wanted)))


def _change(manifest: Manifest, fields: tuple[str, ...]) -> Change:
    return Change(manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"], "apply", fields)


def _deletes(plan: Plan, mirror: Mirror) -> Iterator[Change]:
    desired = {(m["kind"], m["metadata"]["namespace"], m["metadata"]["name"]) for m in plan.children}
    for child in mirror.children():
        if (child.kind, child.namespace, child.name) not in desired and may_prune(child, plan, mirror):
            yield Change(child.kind, child.namespace, child.name, "delete")


def _labels(plan: Plan, mirror: Mirror) -> Iterator[Change]:
    for label in plan.node_labels:
        node = mirror.node(label.node)
        present = node.record.labels.get(ACCELERATOR_CLASS) if node else None
        if node is not None and present != label.accelerator_class:
            yield Change("Node", "", label.node, "label", (f"{ACCELERATOR_CLASS}: {present} -> {label.accelerator_class}",))


def _differences(observed: Any, wanted: Any, path: str = "") -> Iterator[str]:
    """The leaves at which ``observed`` is not as ``wanted``."""
    if isinstance(wanted, Mapping):
        for key, value in wanted.items():
            below = observed.get(key) if isinstance(observed, Mapping) else None
            yield from _differences(below, value, f"{path}.{key}" if path else str(key))
    elif isinstance(wanted, Sequence) and not isinstance(wanted, str) and isinstance(observed, Sequence) and len(observed) == len(wanted):
        for index, (below, value) in enumerate(zip(observed, wanted, strict=True)):
            yield from _differences(below, value, f"{path}[{index}]")
    elif not covers(observed, wanted):
        yield f"{path}: {observed} -> {wanted}"
