"""Every trigger that reaches us through Kopf, on one page.

| kind             | heard by  | then                                                                 |
|------------------|-----------|----------------------------------------------------------------------|
| AcceleratorClass | on.event  | parsed into the mirror, its key named in the changes: the loop plans |
| ModelPool        | on.event  | the same                                                             |
| RoutingPolicy    | on.event  | the same                                                             |
| AgentTeam        | on.event  | the same                                                             |

Nodes, pods, Deployments and Services come through ``kube/informer.py``; endpoints' health through ``telemetry/scrape.py``. Nothing is decided
here, nothing is written, nothing is returned: handlers that return a value, or fail, would make Kopf keep accounts of its own.
"""

from __future__ import annotations

import kopf

from modelfleet.kube.mirror import Mirror
from modelfleet.kube.resources import OURS

__all__ = ["hear_our_kinds"]


def hear_our_kinds(mirror: Mirror, registry: kopf.OperatorRegistry) -> None:
    """Register one handler for each of our kinds; it stores and names a key, which cannot fail."""

    async def hear(event: kopf.RawEvent, **_: object) -> None:
        # async, though it never waits: a plain function would be sent to a thread, and the mirror belongs to the event loop
        mirror.hear(event["type"], event["object"])

    for resource in OURS:
        kopf.on.event(resource.group, resource.version, resource.plural, id=f"hear-{resource.plural}", registry=registry)(hear)
