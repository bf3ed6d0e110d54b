"""skeleton (body arrives in minutes): see signatures."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from modelfleet.core.world import Defaults, Telemetry, World

from .changes import Changes
from .client import Client
from .informer import Informer


class Mirror:
    """Everything observed. Our three kinds are fed by ``hear`` (Kopf), the rest by ``informers``."""

    def __init__(self, changes: Changes, *, gateway_namespace: str | None = None) -> None: ...

    def hear(self, event_type: str | None, raw: Mapping[str, Any]) -> None:
        """One event of one of our kinds (kopf: ``event["type"]``, ``event["object"]``); never raises; names the key ``<Kind>:<ns>/<name>`` in changes."""

    def informers(self, client: Client) -> tuple[Informer[Any], ...]:
        """Informers of nodes, pods, our Deployments and Services; run each as a task."""

    def synced(self) -> bool:
        """Every informer has listed, and a sweep (ghosts.py) has found the mirror complete for each of our kinds."""

    def snapshot(self, now: datetime, telemetry: Telemetry, defaults: Defaults) -> World: ...
