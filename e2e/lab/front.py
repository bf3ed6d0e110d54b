"""The remote provider's front: bearer key, rate limit, one model, and a count of what it served.

It behaves as paid providers do: 401 for a wrong key, 404 for a model it does not have, 429 with `Retry-After` beyond the rate, and
otherwise passes the request and the (possibly streamed) answer through unchanged. `/_stats` is the independent witness: requests
and tokens by status, read out of the answers themselves. Run by `provider.py`; settings come from the environment.
"""

from __future__ import annotations

import hmac
import json
import os
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

WINDOW_SECONDS = 60.0
PASSED = ("content-type", "cache-control")


@dataclass(slots=True)
class Front:
    """What the front knows: its upstream, its key, its rate and its counts."""

    upstream: str
    key: str
    model: str
    limit: int
    recent: deque[float] = field(default_factory=deque)
    stats: dict[str, dict[str, int]] = field(default_factory=dict)

    def count(self, status: int | str, prompt: int = 0, completion: int = 0) -> None:
        """Add one request to the counts of a status."""
        row = self.stats.setdefault(str(status), {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0})
        row["requests"] += 1
        row["prompt_tokens"] += prompt
        row["completion_tokens"] += completion

    def refusal(self, request: Request, body: dict[str, Any]) -> Response | None:
        """The answer to a request that must not reach the model, or None."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.key.encode()):
            return self._error(401, "Incorrect API key provided.", "invalid_api_key")
        now = time.monotonic()
        while self.recent and self.recent[0] <= now - WINDOW_SECONDS:
            self.recent.popleft()
        if len(self.recent) >= self.limit:
            wait = self.recent[0] + WINDOW_SECONDS - now if self.recent else WINDOW_SECONDS
            return self._error(429, "Rate limit reached.", "rate_limit_exceeded", {"retry-after": str(int(wait) + 1)})
        self.recent.append(now)
        if request.method == "POST" and body.get("model") != self.model:
            return self._error(404, f"The model `{body.get('model')}` does not exist.", "model_not_found")
        return None

    def _error(self, status: int, message: str, code: str, headers: dict[str, str] | None = None) -> Response:
        self.count(status)
        return JSONResponse({"error": {"message": message, "type": "invalid_request_error", "code": code}}, status, headers)


async def handle(request: Request) -> Response:
    """Check, pass on, stream back, count."""
    front: Front = request.app.state.front
    client: httpx.AsyncClient = request.app.state.client
    raw = await request.body()
    try:
        body = json.loads(raw) if raw else {}
    except json.JSONDecodeError:
        body = {}
    if (refused := front.refusal(request, body if isinstance(body, dict) else {})) is not None:
        return refused
    sent = client.build_request(request.method, request.url.path, content=raw, headers={"content-type": "application/json"})
    try:
        answer = await client.send(sent, stream=True)
    except httpx.HTTPError:
        front.count(502)
        return JSONResponse({"error": {"message": "The model is not reachable.", "type": "server_error", "code": "bad_gateway"}}, 502)
    headers = {k: v for k, v in answer.headers.items() if k in PASSED}
    return StreamingResponse(_relay(front, answer), answer.status_code, headers, background=BackgroundTask(answer.aclose))


async def _relay(front: Front, answer: httpx.Response) -> AsyncIterator[bytes]:
    kept, finished = bytearray(), False
    try:
        async for chunk in answer.aiter_raw():
            kept += chunk
            yield chunk
        finished = True
    finally:
        usage = _usage(bytes(kept))
        front.count(answer.status_code if finished else "aborted", usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))


def _usage(body: bytes) -> dict[str, int]:
    """The usage an answer reports: its own if JSON, that of the last event which has one if a stream."""
    found: dict[str, int] = {}
    for line in body.split(b"\n") if body.startswith(b"data:") else [body]:
        try:
            told = json.loads(line.removeprefix(b"data:"))
        except json.JSONDecodeError:
            continue
        if isinstance(told, dict) and isinstance(told.get("usage"), dict):
            found = told["usage"]
    return found


async def stats(request: Request) -> Response:
    """Requests and tokens since the start or the last reset: in all, and by status."""
    rows: dict[str, dict[str, int]] = request.app.state.front.stats
    totals = {what: sum(row[what] for row in rows.values()) for what in ("requests", "prompt_tokens", "completion_tokens")}
    return JSONResponse({**totals, "by_status": rows})


async def configure(request: Request) -> Response:
    """Set `limit` or `key`, or forget all counts with `reset`; for tests."""
    front: Front = request.app.state.front
    asked = await request.json()
    front.limit = int(asked.get("limit", front.limit))
    front.key = str(asked.get("key", front.key))
    if asked.get("reset"):
        front.stats.clear()
        front.recent.clear()
    return JSONResponse({"limit": front.limit})


def app(front: Front) -> Starlette:
    """The application around one front."""

    @asynccontextmanager
    async def lifespan(application: Starlette) -> AsyncIterator[None]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=front.upstream, timeout=httpx.Timeout(300, connect=5), trust_env=False, limits=limits) as client:
            application.state.front, application.state.client = front, client
            yield

    routes = [
        Route("/_stats", stats),
        Route("/_configure", configure, methods=["POST"]),
        Route("/v1/{path:path}", handle, methods=["GET", "POST"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def main() -> None:
    """Serve until SIGTERM."""
    env = os.environ
    front = Front(env["PROVIDER_UPSTREAM"], env["PROVIDER_KEY"], env["PROVIDER_MODEL"], int(env["PROVIDER_LIMIT"]))
    uvicorn.run(app(front), host=env["PROVIDER_HOST"], port=int(env["PROVIDER_PORT"]), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
