"""The port that kubelets and Prometheus ask: /healthz, /readyz and /metrics. What healthy means is decided by the ``Subject``; no question calls anybody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from modelfleet.serving import Serving

__all__ = ["ProbeServer", "Subject"]


class Subject(Protocol):
    """Answers with what is wrong, in words, or None."""

    def why_not_alive(self) -> str | None:
        """A reason to be restarted."""

    def why_not_ready(self) -> str | None:
        """A reason to be waited for."""


class ProbeServer(Serving):
    """Answers until ``should_exit``."""

    def __init__(self, subject: Subject, registry: CollectorRegistry, port: int) -> None:
        """Binds the port at once. Raises Stalled(PortInUse)."""
        app = Starlette(
            routes=[
                Route("/healthz", _answer(subject.why_not_alive)),
                Route("/readyz", _answer(subject.why_not_ready)),
                Route("/metrics", _metrics(registry)),
            ]
        )
        super().__init__(app, "", port, "MODELFLEET_PORT", timeout_graceful_shutdown=1)


def _answer(why_not: Callable[[], str | None]) -> Callable[[Request], Response]:
    async def endpoint(_: Request) -> Response:
        wrong = why_not()
        return PlainTextResponse(f"{wrong or 'ok'}\n", status_code=503 if wrong else 200)

    return endpoint  # type: ignore[return-value]


def _metrics(registry: CollectorRegistry) -> Callable[[Request], Response]:
    async def endpoint(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return endpoint  # type: ignore[return-value]
