"""Makes a plan true, in the safe order: children, prune, node labels, statuses, vanished gateways, events.

Decided here: whether a write is needed (never, if it would change nothing) and what may be pruned. Each step is idempotent and knows nothing of the last
cycle, save what its own writes were answered with: that is how a write whose effect the informers have not shown yet, or that another owner of the field
keeps from showing, is not repeated; and which very wish was compared with which very observation, so that it is not compared again.
An error of one object does not stop the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from modelfleet.api.conditions import ConditionType
from modelfleet.api.parse import InvalidObject
from modelfleet.api.v1alpha1 import AgentTeam, ModelPool, RoutingPolicy
from modelfleet.core.plan import GatewayEntry, Manifest, NodeLabel, Plan, StatusWrite
from modelfleet.core.render.labels import ACCELERATOR_CLASS, MANAGER_CHILDREN, MANAGER_NODES, MANAGER_STATUS, POOL
from modelfleet.errors import ApiError, Conflict, NotFound

from .client import Client, Object
from .compare import covers, drops
from .events import Recorder
from .mirror import Child, Mirror, Ours, child_of
from .resources import LEASES, NODES, object_key, of_kind

__all__ = ["ActResult", "Actor", "may_prune"]

_log = logging.getLogger(__name__)
_AT_ONCE: Final = 16
_SHARED_WITH_ROUTERS: Final = frozenset({RoutingPolicy.KIND, AgentTeam.KIND})


@dataclass(frozen=True, slots=True)
class ActResult:
    """``errors`` by object key ``<Kind>:<ns>/<name>``, for backoff; ``writes``: calls that asked for a change."""

    errors: Mapping[str, ApiError]
    writes: int


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a write wanted, and what the API server then showed."""

    wanted: Any
    shown: Any
    version: int


@dataclass(slots=True)
class _Wish:
    """A manifest, taken apart once. ``name`` is its key within the kind; ``wanted`` is compared with what a child of the mirror has as ``desired``.

    ``met_by``: the observation that was compared with it and needed nothing; as long as it is the present one, there is nothing to compare.
    """

    manifest: Manifest
    kind: str
    name: str
    key: str
    pool: str
    wanted: Object
    met_by: Child | None = None

    def is_met(self, mirror: Mirror) -> bool:
        return self.met_by is not None and mirror.child(self.kind, self.name) is self.met_by


def _wish(manifest: Manifest) -> _Wish:
    metadata, kind = manifest["metadata"], manifest["kind"]
    name = object_key(metadata["namespace"], metadata["name"])
    wanted = {"metadata": {k: v for k, v in metadata.items() if k not in ("name", "namespace")}, "spec": manifest["spec"]}
    return _Wish(manifest, kind, name, f"{kind}:{name}", object_key(metadata["namespace"], metadata["labels"][POOL]), wanted)


class Actor:
    """See the module. One per process; ``act`` is not reentrant."""

    def __init__(self, client: Client, mirror: Mirror, recorder: Recorder) -> None:
        """``mirror`` is read as it is during the act: newer than the plan's snapshot does no harm."""
        self._client = client
        self._mirror = mirror
        self._recorder = recorder
        self._answers: dict[str, _Answer] = {}
        self._wishes: dict[int, _Wish] = {}
        self._compared: dict[str, tuple[StatusWrite, Ours]] = {}
        self._errors: dict[str, ApiError] = {}
        self._skip: frozenset[str] = frozenset()

    async def act(self, plan: Plan, skip: frozenset[str] = frozenset()) -> ActResult:
        """Write what differs. ``skip``: object keys that are backing off. Raises only what the write guard raises, at once and without finishing."""
        before = self._writes()
        self._errors, self._skip = {}, skip
        wishes = self._wishes_of(plan)
        desired = {wish.key for wish in wishes}
        await self._each((w.key, partial(self._apply_child, w)) for w in wishes if not w.is_met(self._mirror) and w.pool not in plan.held)
        await self._each((_child_key(c), partial(self._prune, c)) for c in self._unwanted(wishes) if may_prune(c, plan, self._mirror))
        await self._each((f"{NODES.kind}:{label.node}", partial(self._label_node, label)) for label in plan.node_labels)
        await self._each((_status_key(w), partial(self._apply_status, w)) for w in plan.statuses if not self._is_written(w))
        await self._each(self._vanished(plan.vanished_gateways))
        await self._each((f"{e.kind}:{object_key(e.namespace, e.name)}", partial(self._recorder.emit, e)) for e in plan.events)
        self._forget_answers({*desired, *(f"{NODES.kind}:{n.node}" for n in plan.node_labels), *map(_status_key, plan.statuses)})
        return ActResult(errors=dict(sorted(self._errors.items())), writes=self._writes() - before)

    def _wishes_of(self, plan: Plan) -> list[_Wish]:
        """A manifest that the last plan had too, the very object, is the wish that it was, with what was found of it."""
        wishes = [self._wishes.get(id(manifest)) or _wish(manifest) for manifest in plan.children]
        self._wishes = {id(wish.manifest): wish for wish in wishes}
        return list({wish.key: wish for wish in wishes}.values())

    def _unwanted(self, wishes: Iterable[_Wish]) -> list[Child]:
        wanted: dict[str, set[str]] = {}
        for wish in wishes:
            wanted.setdefault(wish.kind, set()).add(wish.name)
        left = [(kind, name) for kind, names in self._mirror.keys_of_children().items() for name in names - wanted.get(kind, set())]
        return [child for kind, name in sorted(left) if (child := self._mirror.child(kind, name)) is not None]

    def _is_written(self, write: StatusWrite) -> bool:
        """True when this very status was compared with this very object before, and nothing was to be written."""
        known = self._compared.get(_status_key(write))
        return known is not None and known[0] is write and known[1] is self._mirror.ours(write.kind, object_key(write.namespace, write.name))

    def _writes(self) -> int:
        # renewals of the Lease go on beside the act and are none of its writes
        return sum(count for (_, kind), count in self._client.writes.items() if kind != LEASES.kind)

    async def _each(self, steps: Iterable[tuple[str, Callable[[], Awaitable[object]]]]) -> None:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def run(key: str, step: Callable[[], Awaitable[object]]) -> None:
            async with gate:
                try:
                    await step()
                except ApiError as error:
                    self._errors[key] = error

        try:
            async with asyncio.TaskGroup() as group:
                for key, step in steps:
                    if key not in self._skip:
                        group.create_task(run(key, step))
        except ExceptionGroup as many:
            # what stops one stops all: a group around it is of no use to the caller
            raise many.exceptions[0] from None

    # Children

    async def _apply_child(self, wish: _Wish) -> None:
        observed = self._mirror.child(wish.kind, wish.name)
        if observed is not None:
            fine = covers(observed.desired, wish.wanted) and not drops(observed.owned, wish.wanted)
            if fine or self._answered(wish.key, wish.wanted, observed, observed.version):
                wish.met_by = observed
                return
        metadata = wish.manifest["metadata"]
        shown = child_of(await self._client.apply(of_kind(wish.kind), metadata["namespace"], metadata["name"], wish.manifest, MANAGER_CHILDREN))
        if shown is not None:
            self._answers[wish.key] = _Answer(wish.wanted, shown, shown.version)

    async def _prune(self, child: Child) -> None:
        try:
            await self._client.delete(of_kind(child.kind), child.namespace, child.name, uid=child.uid)
        except (NotFound, Conflict):
            _log.debug("%s is gone already", _child_key(child))

    # Nodes

    async def _label_node(self, label: NodeLabel) -> None:
        key = f"{NODES.kind}:{label.node}"
        node = self._mirror.node(label.node)
        if node is None:
            return
        present = node.record.labels.get(ACCELERATOR_CLASS)
        if present == label.accelerator_class or self._answered(key, label, present, node.version):
            return
        # the uid keeps an apply from creating a node that has just been deleted
        metadata: Object = {"uid": node.uid, "labels": {ACCELERATOR_CLASS: label.accelerator_class} if label.accelerator_class else {}}
        raw = await self._client.apply(NODES, None, label.node, {"metadata": metadata}, MANAGER_NODES)
        self._answers[key] = _Answer(label, (raw["metadata"].get("labels") or {}).get(ACCELERATOR_CLASS), int(raw["metadata"]["resourceVersion"]))

    # Statuses

    async def _apply_status(self, write: StatusWrite) -> None:
        key, name = _status_key(write), object_key(write.namespace, write.name)
        observed = self._mirror.ours(write.kind, name)
        if observed is None:
            return
        wanted, shown = _own_part(write.kind, write.status), _own_part(write.kind, observed.status)
        if shown == wanted or self._answered(key, wanted, shown, observed.version):
            self._compared[key] = write, observed
            return
        body = {"metadata": {"uid": observed.uid}, "status": wanted}
        raw = await self._client.apply(of_kind(write.kind), write.namespace or None, write.name, body, MANAGER_STATUS, subresource="status")
        self._answers[key] = _Answer(wanted, _own_part(write.kind, raw.get("status") or {}), int(raw["metadata"]["resourceVersion"]))

    def _vanished(self, entries: Iterable[GatewayEntry]) -> list[tuple[str, Callable[[], Awaitable[object]]]]:
        by_object: dict[tuple[str, str, str], set[str]] = {}
        for entry in entries:
            by_object.setdefault((entry.kind, entry.namespace, entry.name), set()).add(entry.gateway)
        return [
            (f"{kind}:{object_key(space, name)}", partial(self._remove_gateways, kind, space, name, gone))
            for (kind, space, name), gone in sorted(by_object.items())
        ]

    async def _remove_gateways(self, kind: str, namespace: str, name: str, gone: set[str]) -> None:
        observed = self._mirror.ours(kind, object_key(namespace, name))
        entries = list(enumerate(observed.status.get("gateways") or ())) if observed else []
        operations: list[Object] = []
        for index, entry in reversed(entries):
            if entry.get("name") in gone:
                # the list may have moved since it was read; then the test fails and the next cycle reads it again
                operations += [
                    {"op": "test", "path": f"/status/gateways/{index}/name", "value": entry["name"]},
                    {"op": "remove", "path": f"/status/gateways/{index}"},
                ]
        if operations:
            await self._client.json_patch(of_kind(kind), namespace, name, operations, manager=MANAGER_STATUS, subresource="status")

    # What was answered

    def _answered(self, key: str, wanted: Any, shown: Any, version: int) -> bool:
        """True when this very wish was granted already: the mirror has not seen the answer yet, or shows exactly it."""
        answer = self._answers.get(key)
        return answer is not None and answer.wanted == wanted and (version < answer.version or shown == answer.shown)

    def _forget_answers(self, keys: set[str]) -> None:
        self._answers = {key: answer for key, answer in self._answers.items() if key in keys}
        self._compared = {key: compared for key, compared in self._compared.items() if key in keys}


def may_prune(child: Child, plan: Plan, mirror: Mirror) -> bool:
    """Only below a pool that we can read, that owns the child and that is not held; the children of vanished pools are the garbage collector's."""
    pool = mirror.ours(ModelPool.KIND, child.pool)
    if pool is None or isinstance(pool.parsed, InvalidObject) or child.deleting or child.pool in plan.held or child.flavor_key in plan.held_flavors:
        return False
    return pool.uid in child.owner_uids


def _own_part(kind: str, status: Mapping[str, Any]) -> Object:
    """What the operator owns of a status: all of it, but for the routers' entries, and the team runtime's condition in a team's."""
    own = {k: v for k, v in _filled(status).items() if not (kind in _SHARED_WITH_ROUTERS and k == "gateways")}
    if kind == AgentTeam.KIND and "conditions" in own:
        # where the API server puts the other writer's entry says nothing about ours
        ours = (c for c in own["conditions"] if c["type"] != ConditionType.PROGRAMMED)
        own["conditions"] = sorted(ours, key=lambda c: str(c["type"]))
    return own


def _filled(fields: Mapping[str, Any]) -> Object:
    """Without empty maps and lists: an apply that empties what it had filled becomes null in the merge of the API server, which then refuses it."""
    kept = {name: _filled(value) if isinstance(value, Mapping) else value for name, value in fields.items()}
    return {name: value for name, value in kept.items() if value not in ({}, [], ())}


def _child_key(child: Child) -> str:
    return f"{child.kind}:{object_key(child.namespace, child.name)}"


def _status_key(write: StatusWrite) -> str:
    return f"{write.kind}:{object_key(write.namespace, write.name)}"
