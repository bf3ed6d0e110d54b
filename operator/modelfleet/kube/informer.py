"""skeleton (body arrives in minutes): see signatures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from .client import Client
from .resources import Resource

T = TypeVar("T")


class Informer(Generic[T]):
    """One list-and-watch that keeps ``objects`` (key ``ns/name`` or ``name`` -> what ``transform`` made) equal to the API server."""

    synced: asyncio.Event
    """Set after the first complete list was applied; never cleared."""
    bookmarks: int
    relists: int

    def __init__(
        self, client: Client, resource: Resource, transform: Callable[[dict[str, Any]], T | None], on_change: Callable[[str, T | None, T | None], None],
        *, namespace: str | None = None, label_selector: str | None = None, field_selector: str | None = None, watch_seconds: float = 300.0, silence: float = 180.0,
    ) -> None: ...

    @property
    def objects(self) -> Mapping[str, T]: ...
    def fresh(self, within: float) -> bool: ...
    async def run(self) -> None: ...
