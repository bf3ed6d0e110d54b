"""The port that kubelets and Prometheus ask: /healthz, /readyz and /metrics. What healthy means is decided by the ``Subject``; no question calls anybody."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Protocol

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from modelfleet.errors import Stalled

__all__ = ["ProbeServer", "Subject"]


class Subject(Protocol):
    """Answers with what is wrong, in words, or None."""

    def why_not_alive(self) -> str | None:
        """A reason to be restarted."""

    def why_not_ready(self) -> str | None:
        """A reason to be waited for."""


class ProbeServer(uvicorn.Server):
    """Serves until ``should_exit``. Signals are the process's own, so uvicorn gets none."""

    def __init__(self, subject: Subject, registry: CollectorRegistry, port: int) -> None:
        """Binds the port at once. Raises Stalled(PortInUse)."""
        self._socket = _listen(port)
        app = Starlette(
            routes=[
                Route("/healthz", _answer(subject.why_not_alive)),
                Route("/readyz", _answer(subject.why_not_ready)),
                Route("/metrics", _metrics(registry)),
            ]
        )
        super().__init__(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave SIGTERM and SIGINT alone."""
        yield

    async def run_until_told(self) -> None:
        """Serve; ends after ``should_exit`` was set."""
        await self.serve(sockets=[self._socket])


def _answer(why_not: Callable[[], str | None]) -> Callable[[Request], Response]:
    async def endpoint(_: Request) -> Response:
        wrong = why_not()
        return PlainTextResponse(f"{wrong or 'ok'}\n", status_code=503 if wrong else 200)

    return endpoint  # type: ignore[return-value]


def _metrics(registry: CollectorRegistry) -> Callable[[Request], Response]:
    async def endpoint(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return endpoint  # type: ignore[return-value]


def _listen(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):  # a kernel may know IPv6 and a pod have none
                return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise Stalled("PortInUse", f"cannot listen on port {port} ({error.strerror}); choose another with MODELFLEET_PORT") from error
