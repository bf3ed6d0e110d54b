"""The OpenAI door: a team is a model name, a run is a chat completion.

Decided here: which team a name means, when headers are sent (with the first text, the end, or after ten silent seconds, so that an early failure still has
its status), and what becomes of a run whose client left. Not decided here: what is read (``openai_wire.py``) and written (``openai_answer.py``), or what a
run does.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from modelfleet.core.teams.ir import TeamPlan, TeamsPlan
from modelfleet.observability.logging import say

from . import refusals
from .engine import Engine, RunRequest
from .joins import Joins
from .listening import END, Piece, next_piece, pieces_of, unless_gone
from .openai_answer import Answer, comment, error_body, event, failure
from .openai_wire import ChatRequest, Refusal, read_chat
from .records import RunResult
from .run import Run, Torn

__all__ = ["CALLER_HEADER", "Front"]

_log = logging.getLogger(__name__)

CALLER_HEADER: Final = "x-modelfleet-caller"
"""Set by the gateway, which strips what the client sent under this name."""
_NOBODY: Final = "-"
_LONGEST_HEADER: Final = 255
_GRACE: Final = 5.0
_SILENCE: Final = 10.0
_FINAL: Final = {"x-should-retry": "false"}
"""The official client would otherwise repeat a run that was paid for."""

_RELEASED: Final = (503, "not_ready", "this process is leaving, and the run goes on in the next one: ask again with the same Idempotency-Key")
_ENDED_HERE: Final = (503, "not_ready", "this process is leaving, and the run ends with it: it had no Idempotency-Key under which it could be asked for again")
_TORN: Final = (502, "team_failed", "the answer changed after part of it had been sent: discard what was received")

_REFUSALS: Final[Mapping[type[refusals.NotStarted], tuple[int, str]]] = {
    refusals.Busy: (429, "rate_limit_exceeded"),
    refusals.Draining: (503, "not_ready"),
    refusals.JournalUnavailable: (503, "not_ready"),
    refusals.Suspended: (503, "team_suspended"),
    refusals.RoleUnavailable: (503, "team_failed"),
    refusals.PriceUnknown: (502, "team_failed"),
    refusals.BudgetBelowMinimum: (400, "budget_below_minimum"),
    refusals.TooLong: (400, "context_length_exceeded"),
    refusals.InvalidTask: (400, "invalid_value"),
}


class Front:
    """Serves every team of the present plan."""

    def __init__(
        self,
        engine: Engine,
        joins: Joins,
        plan: Callable[[], TeamsPlan],
        not_ready: Callable[[], str | None],
        *,
        max_body_bytes: int = 8 * 1024 * 1024,
        silence: float = _SILENCE,
        grace: float = _GRACE,
    ) -> None:
        """``not_ready`` says why nothing can be served now. ``silence``: seconds between comment lines; ``grace``: until a lost client's run is cancelled."""
        self._engine = engine
        self._joins = joins
        self._plan = plan
        self._not_ready = not_ready
        self._max_body = max_body_bytes
        self._silence = silence
        self._grace = grace
        self._leaving: set[asyncio.Task[None]] = set()
        self.draining = False
        """Set when this process takes no more runs: one that it then loses is taken up by the next."""

    def routes(self) -> list[Route]:
        """``/v1/models`` and ``/v1/chat/completions``."""
        return [Route("/v1/models", self._models, methods=["GET"]), Route("/v1/chat/completions", self._chat, methods=["POST"])]

    async def _models(self, _: Request) -> Response:
        plan = self._plan()
        callable_names = [name for name, key in plan.names.items() if key in plan.teams and not plan.teams[key].suspended]
        entries = [
            {"id": name, "object": "model", "created": 0, "owned_by": "modelfleet", "description": plan.teams[plan.names[name]].description}
            for name in sorted(callable_names, key=lambda name: ("/" not in name, name))
        ]
        return _json({"object": "list", "data": entries})

    async def _chat(self, request: Request) -> Response:
        try:
            chat = read_chat(await self._body(request))
            caller = _header(request, CALLER_HEADER) or _NOBODY
            key = _header(request, "idempotency-key")
            run = await self._joins.run(caller, key, chat.fingerprint, lambda run_id: self._submit(chat, caller, run_id))
        except ClientDisconnect:
            return Response(status_code=499)
        except Refusal as refusal:
            return _refused(refusal)
        asked = _Asked(run, Answer(run.id, run.revision, chat.model, int(time.time())), chat, key)
        response = await (self._streamed(request, asked) if chat.stream else self._whole(request, asked))
        response.headers["x-modelfleet-run"] = run.id
        return response

    async def _body(self, request: Request) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self._max_body:
                raise Refusal(400, "request_too_large", f"the body is larger than {self._max_body} bytes")
            parts.append(part)
        return b"".join(parts)

    # --- which team ---

    async def _submit(self, chat: ChatRequest, caller: str, run_id: str) -> Run:
        reason = self._not_ready()
        if reason is not None:
            raise Refusal(503, "not_ready", reason, retry_after=5.0)
        plan = self._plan()
        team = _team(plan, chat.model)
        request = RunRequest(
            team=team,
            targets=plan.targets.get(team.key, {}),
            prices=plan.prices,
            task=chat.task,
            caller=caller,
            deadline_seconds=chat.deadline_seconds,
            max_cost_micro_usd=chat.max_cost_micro_usd,
            run_id=run_id,
        )
        try:
            return await self._engine.submit(request)
        except refusals.NotStarted as error:
            status, code = _REFUSALS.get(type(error), (503, "not_ready"))
            param = "modelfleet.max_cost" if code == "budget_below_minimum" and chat.max_cost_micro_usd is not None else None
            raise Refusal(status, code, error.message, param, error.retry_after) from None

    # --- the answer ---

    async def _whole(self, request: Request, asked: _Asked) -> Response:
        result = await unless_gone(request, asked.run.result())
        if result is None:
            self._leave(asked)
            return Response(status_code=499)
        failed = self._failed(asked, result)
        return _json(asked.answer.completion(result)) if failed is None else _failure(asked, failed, result)

    async def _streamed(self, request: Request, asked: _Asked) -> Response:
        """Begins when there is something to send: text, the end, or a comment after ten silent seconds."""
        pieces = pieces_of(asked.run, self._silence)
        torn, first = False, None
        try:
            first = await unless_gone(request, next_piece(pieces))
        except Torn:
            torn = True
        if first is None and not torn:
            self._leave(asked)
            await pieces.aclose()
            return Response(status_code=499)
        if torn or first is END:
            result = await asked.run.result()
            failed = self._failed(asked, result, torn=torn)
            if failed is not None:
                return _failure(asked, failed, result)
        return _Stream(self._events(asked, pieces, first or END), lambda: self._closed(asked, pieces))

    async def _events(self, asked: _Asked, pieces: AsyncGenerator[Piece], piece: Piece) -> AsyncIterator[bytes]:
        usage, began, torn = asked.chat.include_usage, False, False
        while piece is not END:
            if isinstance(piece, str):
                yield event(asked.answer.piece(piece, first=not began, usage=usage))
                began = True
            elif not began:
                yield comment("the team is at work")
            try:
                piece = await next_piece(pieces)
            except Torn:
                torn, piece = True, END
        result = await asked.run.result()
        asked.over = True
        failed = self._failed(asked, result, torn=torn)
        for part in _ending(asked, result, began=began) if failed is None else [event(asked.answer.error(failed, result), "error")]:
            yield part

    async def _closed(self, asked: _Asked, pieces: AsyncGenerator[Piece]) -> None:
        """A stream has ended, begun or not."""
        await pieces.aclose()
        if not asked.over:
            self._leave(asked)

    def _failed(self, asked: _Asked, result: RunResult, *, torn: bool = False) -> tuple[int, str, str] | None:
        """Status, code and sentence if there is no answer to give. ``torn``: what was sent is none."""
        if self.draining and result.outcome.stop_reason == "RuntimeLost":
            return _RELEASED if asked.key is not None else _ENDED_HERE
        return failure(result) or (_TORN if torn else None)

    # --- a client that left ---

    def _leave(self, asked: _Asked) -> None:
        """A client that sent a key may come back for its run; any other run is of use to nobody."""
        run, key = asked.run, asked.key
        namespace, _, name = run.team.partition("/")
        say(_log, logging.INFO, "client gone (499)", kind="AgentTeam", namespace=namespace, name=name, run=run.id, cancelled=key is None)
        if key is None:
            task = asyncio.create_task(self._cancel_later(run))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _cancel_later(self, run: Run) -> None:
        await asyncio.sleep(self._grace)
        run.cancel("ClientGone")


class _Stream(StreamingResponse):
    """Server-sent events; ``closed`` is called in the end, also where the client left before the first."""

    def __init__(self, body: AsyncIterator[bytes], closed: Callable[[], Awaitable[None]]) -> None:
        super().__init__(body, media_type="text/event-stream", headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._closed = closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._closed()


@dataclass(slots=True)
class _Asked:
    """A run and the request it answers. ``over``: the run has ended."""

    run: Run
    answer: Answer
    chat: ChatRequest
    key: str | None
    over: bool = False


def _ending(asked: _Asked, result: RunResult, *, began: bool) -> list[bytes]:
    usage = asked.chat.include_usage
    role = [] if began else [asked.answer.piece("", first=True, usage=usage)]
    return [event(chunk) for chunk in (*role, *asked.answer.last(result, usage=usage))] + [b"data: [DONE]\n\n"]


def _failure(asked: _Asked, failed: tuple[int, str, str], result: RunResult) -> Response:
    """A run that was let go may be joined again with its key; without one, asking again would be a second run."""
    headers = {"retry-after": "5"} if failed is _RELEASED else _FINAL
    return _json(asked.answer.error(failed, result), failed[0], headers)


def _team(plan: TeamsPlan, model: str) -> TeamPlan:
    """The team a model name means. Raises Refusal."""
    key = plan.names.get(model, model)
    if key in plan.teams:
        return plan.teams[key]
    wrong = next((problem.message for problem in plan.problems if problem.team == key), None)
    if wrong is not None:
        raise Refusal(503, "team_not_ready", f"team {key} cannot run: {wrong}", "model", retry_after=10.0)
    also = sorted(team for team in plan.teams if team.partition("/")[2] == model)
    cure = f"write its full name: {' or '.join(also)}" if also else "names are <namespace>/<team>; GET /v1/models lists them"
    raise Refusal(404, "model_not_found", f"no team is called {model[:128]!r}: {cure}", "model")


def _header(request: Request, name: str) -> str | None:
    value = request.headers.get(name, "").strip()
    if len(value) > _LONGEST_HEADER or not value.isascii() or not value.isprintable():
        raise Refusal(400, "invalid_value", f"header {name}: at most {_LONGEST_HEADER} visible ASCII characters", name)
    return value or None


def _refused(refusal: Refusal) -> Response:
    headers = {}
    if refusal.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(refusal.retry_after)))
    elif refusal.status >= 409:
        headers |= _FINAL
    return _json(error_body(refusal.status, refusal.code, refusal.message, refusal.param), refusal.status, headers)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status_code=status, headers=dict(headers or {}), media_type="application/json")
