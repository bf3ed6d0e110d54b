"""A process's own HTTP port: bound before it serves, so that a port in use is said at once; signals stay the process's own.

Decided here: how a port is taken, and what is said when it cannot be. Not decided here: what is answered, and when serving ends (``should_exit``).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette

from modelfleet.errors import Stalled

__all__ = ["Serving"]

_BACKLOG: Final = 2048


class Serving(uvicorn.Server):
    """Serves ``app`` on one TCP port until ``should_exit``."""

    def __init__(self, app: Starlette, host: str, port: int, setting: str, **config: Any) -> None:
        """``host`` empty: all addresses of both families; ``setting``: the variable that chooses another port; ``config``: uvicorn's. Raises Stalled."""
        self._socket = _listen(host, port, setting)
        super().__init__(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, **config))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave SIGTERM and SIGINT alone."""
        yield

    async def run_until_told(self) -> None:
        """Serve; ends after ``should_exit`` was set."""
        await self.serve(sockets=[self._socket])


def _listen(host: str, port: int, setting: str) -> socket.socket:
    try:
        if not host and socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):  # a kernel may know IPv6 and a pod have none
                return socket.create_server(("::", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True)
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG)
    except OSError as error:
        where = f"{host} port {port}" if host else f"port {port}"
        raise Stalled("PortInUse", f"cannot listen on {where} ({error.strerror}); choose another with {setting}") from error
