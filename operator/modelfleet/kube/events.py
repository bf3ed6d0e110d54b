"""skeleton (body arrives in minutes): see signatures."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from modelfleet.core.plan import Event

from .client import Client


class Recorder:
    """Emits Events of a plan, equal ones once in two minutes."""

    def __init__(self, client: Client, now: Callable[[], datetime], *, component: str = "modelfleet") -> None: ...
    async def emit(self, event: Event) -> bool: ...
