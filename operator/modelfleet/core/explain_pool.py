"""Why a pool is where it is: sentences from its status, for ``modelfleet explain pool``.

The status carries the trail of reasons, so nothing is decided anew; each FlavorReason has one sentence here.
"""

from __future__ import annotations

from typing import Final

from modelfleet.api.conditions import FlavorReason
from modelfleet.api.v1alpha1 import ModelPool
from modelfleet.api.v1alpha1.modelpool import FlavorStatus

__all__ = ["SENTENCES", "explain_pool"]

SENTENCES: Final = {
    FlavorReason.PREFERRED: "is the first choice and is used",
    FlavorReason.FALLBACK: "is used because the flavors before it cannot hold every replica",
    FlavorReason.STANDBY: "is not needed: the flavors before it hold every replica",
    FlavorReason.NO_FREE_DEVICE: "cannot take a replica: no device is free",
    FlavorReason.PENDING_TIMEOUT: "is left alone for a while: its pods could not be scheduled although devices looked free",
    FlavorReason.WAITING_TO_RETURN: "has room again and gets replicas back once it has had it for long enough",
    FlavorReason.MIGRATING_BACK: "is starting a replica; the old one leaves when the new one serves",
    FlavorReason.DRAINING: "is being left: its replicas finish what they began",
    FlavorReason.AT_MAX: "holds as many replicas as its max allows",
    FlavorReason.CLASS_NOT_FOUND: "cannot be used: its AcceleratorClass does not exist or is not valid",
    FlavorReason.NO_MATCHING_NODES: "cannot be used: no node of the cluster belongs to its class",
    FlavorReason.QUOTA_EXCEEDED: "is left alone for a while: a ResourceQuota forbids its pods",
    FlavorReason.PODS_REFUSED: "is left alone for a while: the API server refuses its pods",
    FlavorReason.CRASH_LOOPING: "is left alone for a while: its pods do not come up",
    FlavorReason.ROLLOUT_WAITS_FOR_DEVICE: "has a new revision and no free device to start it beside the old one",
    FlavorReason.KEY_REFUSED: "does not serve: the endpoint refuses the key",
    FlavorReason.UNREACHABLE: "does not serve: the endpoint does not answer",
    FlavorReason.RATE_LIMITED: "does not serve for now: the endpoint's rate limit is reached",
    FlavorReason.SECRET_MISSING: "does not serve: the Secret with its key is missing",
    FlavorReason.ENDPOINT_NOT_ALLOWED: "does not serve: its URL leads into the cluster or its network; the platform may allow it (chart value endpoints.allow)",
}


def explain_pool(pool: ModelPool) -> tuple[str, ...]:
    """Sentences, the pool first and then its flavors in order of preference."""
    status = pool.status
    if not status.flavors:
        return (f"{pool.key}: nothing is decided yet; is the operator running?",)
    ready = next((c for c in status.conditions if c.type == "Ready"), None)
    head = f"{pool.key}: {status.ready or '-'} replicas ready on {status.flavor_summary or '-'}"
    lines = [f"{head}; {ready.message or ready.reason}" if ready and ready.message else head]
    lines += [_flavor_line(f) for f in status.flavors]
    if status.last_decision is not None:
        lines.append(f"last change {status.last_decision.time:%Y-%m-%d %H:%M:%S}: {status.last_decision.summary}")
    lines += [f"{c.type}: {c.message}" for c in status.conditions if c.message and _is_bad(c.type, c.status)]
    return tuple(lines)


def _flavor_line(flavor: FlavorStatus) -> str:
    known = flavor.reason in set(FlavorReason)
    sentence = SENTENCES[FlavorReason(flavor.reason)] if known else flavor.reason
    count = f"{flavor.ready} ready of {flavor.desired}" if flavor.reachable is None and flavor.devices_per_replica else "endpoint"
    detail = f" ({flavor.message})" if flavor.message else ""
    retry = f"; tried again at {flavor.retry_after:%H:%M}" if flavor.retry_after else ""
    return f"  {flavor.name} [{count}] {sentence}{detail}{retry}"


def _is_bad(type_: str, status: str) -> bool:
    return status == ("True" if type_ in ("Degraded", "Stalled", "Paused") else "False") and type_ not in (
        "Ready",
        "Progressing",
        "Reconciling",
        "WorkloadsReady",
    )
