"""The team runtime's HTTP side around its doors: metrics, probes, and JSON errors for what no door answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .openai_answer import error_body

__all__ = ["http_app"]


def http_app(doors: Sequence[Route], registry: CollectorRegistry, ready: Callable[[], Awaitable[str | None]], alive: Callable[[], bool]) -> Starlette:
    """``doors``, and ``/metrics``, ``/readyz``, ``/healthz``. ``ready`` says why not, None: it is."""

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def readyz(_: Request) -> Response:
        reason = await ready()
        return Response(reason or "ready", status_code=200 if reason is None else 503, media_type="text/plain")

    async def healthz(_: Request) -> Response:
        good = alive()
        return Response("ok" if good else "a task of this process has ended", status_code=200 if good else 503, media_type="text/plain")

    probes = [Route("/metrics", metrics), Route("/readyz", readyz), Route("/healthz", healthz)]
    return Starlette(routes=[*doors, *probes], exception_handlers={HTTPException: _no_door, Exception: _broken})


async def _no_door(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return _error(status, "not_found", f"{request.method} {request.url.path}: there are GET /v1/models and POST /v1/chat/completions")


async def _broken(_: Request, _why: Exception) -> Response:
    """The official client repeats a 500, and a run that was paid for, unless it is told not to."""
    return _error(500, "internal_error", "the team runtime failed; its log says why")


def _error(status: int, code: str, message: str) -> Response:
    body = orjson.dumps(error_body(status, code, message))
    return Response(body, status_code=status, headers={"x-should-retry": "false"}, media_type="application/json")
