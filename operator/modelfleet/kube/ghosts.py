"""skeleton (body arrives in minutes): see signatures."""

from __future__ import annotations

from .client import Client
from .mirror import Mirror


class Ghosts:
    """The list-and-compare of our kinds."""

    def __init__(self, client: Client, mirror: Mirror, *, period: float = 300.0, starting: float = 0.5) -> None: ...

    healthy: bool
    """False after an object was newer in two lists than in the mirror (Kopf's stream is silent), until a list agrees."""

    async def sweep(self) -> None: ...
    async def run(self) -> None:
        """Sweep every ``starting`` s until complete (then mirror.synced() can be true), then every ``period`` s; never raises for API errors."""
