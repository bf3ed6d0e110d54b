"""The router's own HTTP side: metrics for the operator, probes for the kubelet, explanations for people. No request is sent on from here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .authz import Decider, decision_json

__all__ = ["http_app"]

_MAX_BODY = 1024 * 1024
"""As much as the decider sees of any body: a longer one would be decided by its head, and its reading would hold up the requests of others."""
_HIDDEN = frozenset(("authorization", "cookie", "proxy-authorization", "api-key", "x-api-key"))

Endpoint = Callable[[Request], Awaitable[Response]]


def http_app(decider: Decider, registry: CollectorRegistry, ready: Callable[[], bool], alive: Callable[[], bool] = lambda: True) -> Starlette:
    """``/metrics``, ``/readyz`` (Envoy acknowledged a push), ``/healthz`` and ``/explain``."""

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def readyz(_: Request) -> Response:
        return _word(ready(), "ready", "envoy has not acknowledged a configuration yet, or this router is leaving")

    async def healthz(_: Request) -> Response:
        return _word(alive(), "ok", "a task of this router has ended")

    async def recall(request: Request) -> Response:
        remembered = decider.recall(request.query_params.get("id", ""))
        if remembered is None:
            return _json({"error": "no such decision among the last 10,000 of this router"}, 404)
        return _json(decision_json(remembered))

    async def explain(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_BODY:
                return _json({"error": "the body is larger than 1 MiB: the gateway decides such a request by its head alone (BodyCut)"}, 413)
        headers = {name: value for name, value in request.headers.items() if name not in _HIDDEN}
        return _json(decider.explain(body, headers, request.query_params.get("policy")))

    routes: list[tuple[str, Endpoint, str]] = [
        ("/metrics", metrics, "GET"), ("/readyz", readyz, "GET"), ("/healthz", healthz, "GET"), ("/explain", recall, "GET"), ("/explain", explain, "POST"),
    ]  # fmt: skip
    return Starlette(routes=[Route(path, endpoint, methods=[method]) for path, endpoint, method in routes])


def _word(good: bool, yes: str, no: str) -> Response:
    return Response(yes if good else no, status_code=200 if good else 503, media_type="text/plain")


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")
