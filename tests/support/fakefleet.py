"""A pure little cluster for the laws of planning: applies plans, schedules pods, makes them ready, lets time pass.

It knows Deployments (pods follow replicas, rollouts follow the strategy; not-ready pods go first), a scheduler (first node that fits), and the status
subresource. It is not Kubernetes: what Kubernetes itself does is tried on the lab.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from modelfleet.api.v1alpha1 import AcceleratorClass, ModelPool
from modelfleet.core.plan import Plan
from modelfleet.core.reconcile import plan_fleet
from modelfleet.core.render.labels import ACCELERATOR_CLASS, FLAVOR, POOL
from modelfleet.core.world import EndpointHealth, Node, Pod, Telemetry, Workload, World

from .builders import GPU, NOON


class FakeFleet:
    """Mutable; ``world()`` is a snapshot of it."""

    def __init__(self, pools: Iterable[ModelPool], classes: Iterable[AcceleratorClass], nodes: Iterable[Node], now: datetime = NOON) -> None:
        self.now = now
        self.pools = {p.key: p for p in pools}
        self.classes = {c.metadata.name: c for c in classes}
        self.nodes = {n.name: n for n in nodes}
        self.pods: dict[str, Pod] = {}
        self.children: dict[str, Any] = {}
        self.down: set[tuple[str, str]] = set()
        self.telemetry_fresh = True
        self.drains = False
        """True: pods that leave hold their devices until ``drained``."""
        self.events: list[str] = []
        self.writes = 0
        self._made = 0

    # What is seen

    def world(self) -> World:
        deployments = [c for c in self.children.values() if c["kind"] == "Deployment"]
        return World(
            self.now,
            pools=tuple(self.pools.values()),
            classes=tuple(self.classes.values()),
            nodes=tuple(self.nodes.values()),
            pods=tuple(self.pods.values()),
            workloads=tuple(self._workload(d) for d in deployments),
            telemetry=Telemetry(
                endpoints=tuple(EndpointHealth(p, f, up=False, reason="Unreachable") for p, f in sorted(self.down)), fresh=self.telemetry_fresh
            ),
        )

    def _workload(self, deployment: Any) -> Workload:
        metadata = deployment["metadata"]
        surge = deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
        owners = frozenset(r["uid"] for r in metadata["ownerReferences"])
        place = (metadata["namespace"], metadata["name"], metadata["labels"][POOL], metadata["labels"][FLAVOR])
        return Workload(*place, deployment["spec"]["replicas"], in_place=surge == 0, owners=owners)

    def ready(self, pool: str, flavor: str | None = None) -> int:
        return sum(p.ready and not p.deleting and p.pool == pool and flavor in (None, p.flavor) for p in self.pods.values())

    def desired(self, pool: str, flavor: str) -> int:
        status = self.pools[f"apps/{pool}"].status
        return next((f.desired for f in status.flavors if f.name == flavor), 0)

    def reason(self, pool: str, flavor: str) -> str:
        status = self.pools[f"apps/{pool}"].status
        return next((f.reason for f in status.flavors if f.name == flavor), "")

    # What is written

    def act(self, plan: Plan, stop_after: int | None = None) -> int:
        """Apply a plan in the controller's order; ``stop_after`` so many writes it dies. Answers the number of writes, not counting events."""
        done = 0
        for step in self._steps(plan):
            if stop_after is not None and done >= stop_after:
                return done
            step()
            done += 1
        self.events += [f"{e.name}: {e.reason}" for e in plan.events]
        self.writes += done
        return done

    def _steps(self, plan: Plan) -> list[Any]:
        steps: list[Any] = []
        wanted = {f"{m['kind']}/{m['metadata']['namespace']}/{m['metadata']['name']}": m for m in plan.children}
        for key, manifest in wanted.items():
            if self.children.get(key) != manifest:
                steps.append(lambda key=key, manifest=manifest: self.children.__setitem__(key, json.loads(json.dumps(manifest))))
        for key, child in list(self.children.items()):
            pool = f"{child['metadata']['namespace']}/{child['metadata']['labels'][POOL]}"
            flavor = f"{pool}/{child['metadata']['labels'][FLAVOR]}"
            if key not in wanted and pool not in plan.held and flavor not in plan.held_flavors:
                steps.append(lambda key=key: self.children.pop(key))
        steps += [lambda label=label: self._label(label.node, label.accelerator_class) for label in plan.node_labels]
        for write in plan.statuses:
            if write.kind in ("ModelPool", "AcceleratorClass"):
                store: dict[str, Any] = self.pools if write.kind == "ModelPool" else self.classes
                key = f"{write.namespace}/{write.name}" if write.namespace else write.name
                if store[key].status.to_wire() != write.status:
                    steps.append(lambda store=store, key=key, status=write.status: self._write_status(store, key, status))
        return steps

    def _write_status(self, store: dict[str, Any], key: str, status: Any) -> None:
        raw = {
            "metadata": store[key].metadata.model_dump(by_alias=True),
            "spec": store[key].spec.model_dump(by_alias=True, exclude_none=True),
            "status": status,
        }
        store[key] = type(store[key]).model_validate(raw)

    def _label(self, node: str, value: str | None) -> None:
        labels = {k: v for k, v in self.nodes[node].labels.items() if k != ACCELERATOR_CLASS}
        self.nodes[node] = replace(self.nodes[node], labels={**labels, **({ACCELERATOR_CLASS: value} if value else {})})

    # What the cluster does by itself

    def settle(self, rounds: int = 12) -> None:
        """Plan, act and let the cluster work until nothing changes; time stands still."""
        for _ in range(rounds):
            written = self.act(plan_fleet(self.world()))
            if not self.work() and not written:
                return
        raise AssertionError(f"no rest after {rounds} rounds: {[(p.key, p.status.flavors) for p in self.pools.values()]}")

    def work(self) -> bool:
        """Deployments make and delete pods, the scheduler binds them, kubelets make them ready. Answers whether anything changed."""
        before = dict(self.pods)
        self._follow_replicas()
        self._schedule()
        self._become_ready()
        return before != self.pods

    def _follow_replicas(self) -> None:
        present = {(c["metadata"]["namespace"], c["metadata"]["labels"][POOL], c["metadata"]["labels"][FLAVOR]) for c in self._deployments()}
        self._leave([p for p in self.pods.values() if (p.namespace, p.pool, p.flavor) not in present])
        for deployment in self._deployments():
            metadata, spec = deployment["metadata"], deployment["spec"]
            place = (metadata["namespace"], metadata["labels"][POOL], metadata["labels"][FLAVOR])
            mine = [p for p in self.pods.values() if (p.namespace, p.pool, p.flavor) == place and not p.deleting]
            revision = hashlib.sha256(json.dumps(spec["template"], sort_keys=True).encode()).hexdigest()[:8]
            old, new = [p for p in mine if p.revision != revision], [p for p in mine if p.revision == revision]
            if old and spec["replicas"]:
                new += self._make(deployment, revision, min(spec["replicas"] - len(new), spec["replicas"] + self._strategy(spec)[0] - len(mine)))
                self._scale_down(spec, old, new)
            else:
                self._leave(sorted(mine, key=lambda p: (p.ready, p.node is not None, p.name))[: max(0, len(mine) - spec["replicas"])])
                self._make(deployment, revision, spec["replicas"] - len(mine))

    @staticmethod
    def _strategy(spec: Any) -> tuple[int, int]:
        rolling = spec["strategy"]["rollingUpdate"]
        return rolling["maxSurge"], rolling["maxUnavailable"]

    def _scale_down(self, spec: Any, old: list[Pod], new: list[Pod]) -> None:
        """As the Deployment controller does: unhealthy old pods first, then as many ready ones as may be missing."""
        least = spec["replicas"] - self._strategy(spec)[1]
        many = len(old) + len(new) - least - sum(not p.ready for p in new)
        unhealthy = sorted((p for p in old if not p.ready), key=lambda p: p.name)[: max(0, many)]
        self._leave(unhealthy)
        spare = sum(p.ready for p in (*old, *new)) - least
        if many > 0:
            self._leave(sorted((p for p in old if p.ready), key=lambda p: p.name)[: max(0, spare)])

    def _leave(self, pods: Iterable[Pod]) -> None:
        for pod in pods:
            if self.drains and pod.node is not None:
                self.pods[pod.uid] = replace(pod, deleting=True)
            else:
                del self.pods[pod.uid]

    def drained(self) -> None:
        """Pods that were leaving are gone."""
        self.pods = {uid: p for uid, p in self.pods.items() if not p.deleting}

    def _make(self, deployment: Any, revision: str, count: int) -> list[Pod]:
        made = []
        for _ in range(count):
            self._made += 1
            metadata = deployment["metadata"]
            limits = deployment["spec"]["template"]["spec"]["containers"][0]["resources"].get("limits", {})
            name = f"{metadata['name']}-{self._made:05d}"
            requests = {GPU: int(limits[GPU])} if GPU in limits else {"cpu": 1000}
            pool, flavor = metadata["labels"][POOL], metadata["labels"][FLAVOR]
            self.pods[name] = Pod(metadata["namespace"], name, name, requests, created=self.now, pool=pool, flavor=flavor, revision=revision)
            made.append(self.pods[name])
        return made

    def _schedule(self) -> None:
        selectors = {
            (c["metadata"]["labels"][POOL], c["metadata"]["labels"][FLAVOR]): c["spec"]["template"]["spec"]["nodeSelector"] for c in self._deployments()
        }
        for pod in sorted(self.pods.values(), key=lambda p: p.name):
            if pod.node is None and not pod.deleting and (pod.pool, pod.flavor) in selectors:
                selector = selectors[pod.pool or "", pod.flavor or ""]
                node = next((n.name for n in sorted(self.nodes.values(), key=lambda n: n.name) if self._fits(pod, n, selector)), None)
                since = pod.unschedulable_since or self.now
                self.pods[pod.uid] = replace(pod, node=node, unschedulable_since=None if node else since, unschedulable_message="" if node else "no node fits")

    def _deployments(self) -> list[Any]:
        return [c for c in self.children.values() if c["kind"] == "Deployment"]

    def _fits(self, pod: Pod, node: Node, selector: dict[str, str]) -> bool:
        if not (node.ready and node.schedulable) or any(node.labels.get(k) != v for k, v in selector.items()):
            return False
        used = {r: sum(p.requests.get(r, 0) for p in self.pods.values() if p.node == node.name and p.holds_devices) for r in pod.requests}
        return all(used[r] + q <= node.allocatable.get(r, 0) for r, q in pod.requests.items())

    def _become_ready(self) -> None:
        for pod in list(self.pods.values()):
            node = self.nodes.get(pod.node or "")
            if node is not None and node.ready and not (pod.ready or pod.deleting or pod.waiting_reason):
                self.pods[pod.uid] = replace(pod, phase="Running", ready=True)

    # What happens to it

    def change_spec(self, pool: str, **fields: Any) -> None:
        """Somebody edits the pool."""
        before = self.pools[f"apps/{pool}"]
        metadata = {**before.metadata.model_dump(by_alias=True), "generation": before.metadata.generation + 1}
        spec = {**before.spec.model_dump(by_alias=True, exclude_none=True), **fields}
        self.pools[before.key] = ModelPool.model_validate({"metadata": metadata, "spec": spec, "status": before.status.to_wire()})

    def new_revision(self, pool: str, mark: str) -> None:
        """The pod template of every flavor of the pool changes."""
        self.change_spec(pool, engine={"type": "LlamaCpp", "args": [mark]})

    def surges(self, pool: str, flavor: str) -> bool:
        """False while the Deployment replaces in place."""
        return bool(self._strategy(self.children[f"Deployment/apps/{pool}-{flavor}"]["spec"])[0])

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def set_devices(self, node: str, count: int, *, kill: bool = True) -> None:
        """The device plugin offers another number of devices; the pods that do not fit any more die if ``kill``."""
        self.nodes[node] = replace(
            self.nodes[node], allocatable={**self.nodes[node].allocatable, GPU: count}, capacity={**self.nodes[node].capacity, GPU: count}
        )
        used = 0
        for pod in sorted(self.pods.values(), key=lambda p: p.name):
            if pod.node == node:
                used += pod.requests.get(GPU, 0)
                if kill and used > count:
                    del self.pods[pod.uid]

    def lose_node(self, node: str) -> None:
        self.nodes[node] = replace(self.nodes[node], ready=False)
        for pod in list(self.pods.values()):
            if pod.node == node:
                self.pods[pod.uid] = replace(pod, ready=False)

    def find_node(self, node: str) -> None:
        self.nodes[node] = replace(self.nodes[node], ready=True)
