"""skeleton (body arrives in minutes): see signatures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .client import Client


class Lease:
    """Leadership. ``client.before_write = lease.check`` makes every write ask first."""

    lost: asyncio.Event

    def __init__(self, client: Client, namespace: str, name: str, identity: str, *, duration: float = 15.0, deadline: float = 10.0, renew: float = 5.0,
                 clock: Callable[[], float] = ...) -> None: ...

    def held(self) -> bool: ...
    def check(self) -> None:
        """Raise errors.Retry("LeaseNotHeld") unless held."""

    async def acquire(self) -> None:
        """Wait until we hold it (polls every ``renew`` s); never raises for API errors."""

    async def run(self) -> None:
        """Renew until lost (``lost`` is set, returns) or cancelled. Start as a task right after ``acquire()``."""

    async def release(self) -> None:
        """Clean stop: stop renewing, write holderIdentity "" (bounded, best effort). held() is False from the call on."""
