"""A rollout on a class without a free device: what is seen of it, and what becomes of it.

A Deployment replaces make-before-break: one pod more, then one old pod less. On a full class that pod more finds no device.
It is unschedulable for ``placement.pendingTimeout``, while old replicas still run and no slot is free; from then on:

- If a later flavor has room it takes one replica more (the *cover*), as a return does: beyond ``scaling.max`` by that one.
  An endpoint that is up is a cover at once. A cover that fails is not waited for.
- When the cover serves, or when there is nobody to cover, the Deployment is rendered *in place*: maxSurge 0, maxUnavailable 1.
  Each old replica drains before its successor starts. Nobody moves to another flavor for good: it could not serve better.
- One flavor of a pool at a time, the first in order; a bad revision then stops with one replica of one flavor.
- In place stays until one revision is left and all its replicas serve. The memory is the strategy of the Deployment itself, so it neither
  flip-flops when the waiting pod gets its device, nor is lost with an operator or a status.

How this differs from a pod that is stuck (PendingTimeout). A waiting surge pod is not missing: as many replicas run as are asked
for, so nothing shifts. In place a replica is missing while its predecessor drains: the device that a draining pod of another
revision holds counts as room of the flavor, so the replica stays. When that device is free the clock of PendingTimeout starts anew
(``freeSince``), since the pod has been unschedulable for long but never had a chance; if it is still not scheduled after another
``pendingTimeout`` the flavor has failed as any other: it rests, its missing replica goes on, and in place ends, so that the old
replicas that are left stay. If a slot looks free while the surge pod is stuck, stopping an old replica may well help nobody:
the old revision serves on, and the status says what the scheduler said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from modelfleet.core.clock import Clock
from modelfleet.core.world import Pod, Workload

__all__ = ["Rollout", "rollout_of"]


@dataclass(frozen=True, slots=True)
class Rollout:
    """What is seen of a flavor's rollout.

    ``mixed``: pods of several revisions; ``stuck``: why the surge pod is not scheduled, empty in time; ``in_place``: the strategy of the Deployment;
    ``awaited``: missing replicas whose devices are held by draining pods of another revision.
    """

    mixed: bool = False
    stuck: str = ""
    in_place: bool = False
    awaited: int = 0


def rollout_of(workload: Workload | None, pods: Sequence[Pod], is_ready: Callable[[str], bool], *, missing: int, timeout: float, clock: Clock) -> Rollout:
    """From a flavor's living pods. ``missing``: replicas asked for that are not bound to a Ready node; ``timeout`` in seconds."""
    staying = [p for p in pods if not p.deleting]
    pending = sorted((p for p in staying if p.node is None), key=lambda p: p.name)
    in_place = workload is not None and workload.in_place
    held_back = {p.revision for p in pending}
    yielding = [p for p in pods if p.deleting and p.node is not None and is_ready(p.node) and p.revision not in held_back]
    stuck = [p for p in pending if _is_stuck(p, timeout, clock) and any(o.node is not None and o.revision != p.revision for o in staying)]
    return Rollout(
        mixed=len({p.revision for p in pods}) > 1,
        stuck=f"pod {stuck[0].name}: {stuck[0].unschedulable_message or 'no reason given'}" if stuck else "",
        in_place=in_place,
        awaited=min(missing, len(yielding)) if pending or in_place else 0,
    )


def _is_stuck(pod: Pod, timeout: float, clock: Clock) -> bool:
    return pod.unschedulable_since is not None and clock.reached(pod.unschedulable_since + timedelta(seconds=timeout))
