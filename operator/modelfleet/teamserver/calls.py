"""One attempt at one model call: the request as the gateway wants it, the reply as it comes in, and what a failure means for money and for trying again.

Always a stream with usage; a server that answers with plain JSON is understood too. Decided here: what arrived, whether a failure may have been billed, and
whether the text is the answer its schema asks for. Not decided here: whether to try again, what is charged, or when a call leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import orjson

from modelfleet.core.teams.ir import RolePlan
from modelfleet.core.teams.schema import misfit
from modelfleet.core.teams.strategies.protocol import Call, ErrorClass, Task

from .sse import SseParser, TooLongEvent

__all__ = ["MAX_TEXT", "SERVED_HEADER", "CallFault", "Received", "TokenUsage", "ask", "request_body", "typed_value"]

SERVED_HEADER: Final = "x-modelfleet-served"
"""``<ns>/<pool>/<flavor>`` that answered, set by the gateway."""
MAX_TEXT: Final = 256 * 1024
"""Bytes of an answer; what is longer is cut off and no answer."""
_MAX_ERROR = 64 * 1024
_MAX_PLAIN = 4 * 1024 * 1024
_PATH = "/v1/chat/completions"
_LINGER = 0.25
_LONGEST_WAIT = 3600.0
_MOST_TOKENS = 10**9
"""No call uses as many. What reports more has overrun its bound all the same, and sums over a run still fit into 64 bits."""
_DEEPEST = 100
"""Levels of a typed answer: what is deeper is no answer, since copying and comparing it would run out of stack."""
_SENT_AND_LOST = frozenset({"UC", "UR", "LR", "UPE", "DPE"})
"""Envoy's words for an upstream that had the request when it was lost."""


class CallFault(Exception):
    """An attempt that gave no answer.

    ``trigger``: what of a role's ``retries.on`` it counts as, None: never tried again. ``billed``: it may have cost money. ``retry_after``: seconds the server
    asked for.
    """

    def __init__(self, error: ErrorClass, *, trigger: str | None = None, billed: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(error)
        self.error: ErrorClass = error
        self.trigger = trigger
        self.billed = billed
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What a server says that a call used."""

    prompt: int
    completion: int
    cached: int = 0


@dataclass(slots=True)
class Received:
    """What is known of an attempt so far, so that one that is cut off can be charged for what it was.

    ``bytes``: of generated text, reasoning included. ``usage``: the last that was reported; before there is a ``finish``, it is not all of it.
    """

    sent: bool = False
    served: tuple[str, str] | None = None
    usage: TokenUsage | None = None
    finish: str | None = None
    bytes: int = 0
    _text: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._text)

    def add(self, text: str) -> None:
        """Text of the answer has arrived."""
        self._text.append(text)


def request_body(call: Call, role: RolePlan, model: str, task: Task | None = None) -> bytes:
    """The chat completion request of a call. The client's wishes about sampling (in ``task``) hold for calls that give the answer, before the role's own."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in call.messages],
        "max_tokens": min(call.max_tokens, role.max_tokens),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    wishes = task if task is not None and (call.answers or call.final) else Task(question="")
    temperature, top_p = wishes.temperature or role.temperature, wishes.top_p or role.top_p
    if temperature is not None:
        body["temperature"] = float(temperature)
    if top_p is not None:
        body["top_p"] = float(top_p)
    if wishes.seed is not None:
        body["seed"] = wishes.seed
    if wishes.stop:
        body["stop"] = list(wishes.stop)
    if call.schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": json.loads(call.schema)}}
    return orjson.dumps(body)


def typed_value(text: str, schema: str) -> Any:
    """The value that an answer spells. Raises CallFault InvalidOutput where it is no JSON, is too deep, does not fit the schema, or holds what is no text."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise CallFault("InvalidOutput", trigger="InvalidOutput", billed=True) from None
    if _too_deep(value) or misfit(schema, value) is not None:
        raise CallFault("InvalidOutput", trigger="InvalidOutput", billed=True)
    return value


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [part for whole in level if isinstance(whole, dict | list) for part in (whole.values() if isinstance(whole, dict) else whole)]
        if not level:
            return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(constant)


async def ask(http: httpx.AsyncClient, gateway_url: str, body: bytes, *, headers: Mapping[str, str], got: Received, on_text: Callable[[str], None]) -> None:
    """Send one request and take in its reply; ``got`` is filled as it arrives, ``on_text`` hears each piece of the answer. Raises CallFault."""

    async def trace(name: str, _info: Mapping[str, Any]) -> None:
        got.sent = got.sent or name.endswith("send_request_headers.started")

    whole = {"content-type": "application/json", "accept": "*/*", "accept-encoding": "identity", **headers}
    # made here and not by the client: merging its defaults into each request costs more than sending it
    request = httpx.Request("POST", gateway_url + _PATH, headers=whole, content=body, extensions={"trace": trace})
    try:
        async with contextlib.aclosing(await http.send(request, stream=True)) as reply:
            got.served = _served(reply.headers.get(SERVED_HEADER))
            if reply.status_code != 200:
                raise _refusal(reply, await _some(reply, _MAX_ERROR))
            if _encoded(reply):
                raise _broken()
            if reply.headers.get("content-type", "").startswith("text/event-stream"):
                await _stream(reply, got, on_text)
            else:
                _take(_json(await _some(reply, _MAX_PLAIN)), got, on_text, "message")
    except httpx.HTTPError as error:
        if not got.sent:
            raise CallFault("Unavailable", trigger="ServerError") from error
        raise CallFault("ServerError", trigger="ServerError", billed=True) from error
    if got.finish is None:
        raise _broken()


async def _stream(reply: httpx.Response, got: Received, on_text: Callable[[str], None]) -> None:
    if not isinstance(reply.stream, httpx.AsyncByteStream):
        raise TypeError("a call was answered without a stream")
    # as they come: nothing is to be decoded, and each of the client's own layers is paid for with every token
    parser, chunks = SseParser(), aiter(reply.stream)
    try:
        async for chunk in chunks:
            for data in parser.feed(chunk):
                if data == "[DONE]":
                    return await _rest(chunks)
                _take(_json(data), got, on_text, "delta")
    except TooLongEvent:
        raise _broken() from None


async def _rest(chunks: AsyncIterator[bytes]) -> None:
    """Read a finished reply to its end, so that its connection can be used again; one that does not end soon is closed instead."""
    try:
        async with asyncio.timeout(_LINGER):
            async for _ in chunks:
                pass
    except (TimeoutError, httpx.HTTPError):
        return


async def _some(reply: httpx.Response, most: int) -> bytes:
    """The first bytes of a body; a longer one is cut."""
    body = bytearray()
    if _encoded(reply):
        return b""
    async for chunk in reply.aiter_bytes():
        body += chunk
        if len(body) > most:
            break
    return bytes(body)


def _encoded(reply: httpx.Response) -> bool:
    """Whether a reply is compressed, which nobody asked for: a few bytes of it could become more than there is memory for."""
    return reply.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity")


def _json(text: str | bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise _broken() from None


def _broken() -> CallFault:
    """A reply that is cut short or not what it should be."""
    return CallFault("ServerError", trigger="ServerError", billed=True)


def _take(part: Any, got: Received, on_text: Callable[[str], None], where: str) -> None:
    """Take in one chunk of a stream, or a whole reply."""
    if not isinstance(part, dict) or part.get("error") is not None:
        raise _broken()
    if (usage := part.get("usage")) is not None:
        got.usage = _usage(usage) or got.usage
    choices = part.get("choices")
    if not isinstance(choices, list) or not choices:
        return
    choice = choices[0]
    message = choice.get(where) if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise _broken()
    got.bytes += sum(len(text.encode()) for key, text in message.items() if key != "role" and isinstance(text, str))
    text = message.get("content")
    if isinstance(text, str) and text:
        if got.bytes > MAX_TEXT:
            raise CallFault("InvalidOutput", trigger="InvalidOutput", billed=True)
        got.add(text)
        on_text(text)
    finish = choice.get("finish_reason")
    got.finish = finish if isinstance(finish, str) else got.finish


def _usage(value: Any) -> TokenUsage | None:
    if not isinstance(value, dict):
        return None
    details = value.get("prompt_tokens_details")
    prompt, completion = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens"))
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return None if prompt is None or completion is None else TokenUsage(prompt, completion, min(cached or 0, prompt))


def _count(value: Any) -> int | None:
    return min(value, _MOST_TOKENS) if type(value) is int and value >= 0 else None


def _served(header: str | None) -> tuple[str, str] | None:
    pool, _, flavor = (header or "").rpartition("/")
    return (pool, flavor) if pool and flavor else None


def _refusal(reply: httpx.Response, body: bytes) -> CallFault:
    """What a status other than 200 means."""
    status, code, message = reply.status_code, *_error(body)
    after = _seconds(reply.headers.get("retry-after"))
    match status:
        case 429:
            return CallFault("RateLimited", trigger="RateLimited", retry_after=after)
        case 503:
            # the gateway's own 503 names how the upstream was lost
            lost = code == "upstream_unavailable" and bool(_SENT_AND_LOST & set(message.replace(",", " ").split()))
            return CallFault("Unavailable", trigger="ServerError", billed=lost, retry_after=after)
        case 408 | 504:
            return CallFault("Timeout", trigger="Timeout", billed=True)
        case 413:
            return CallFault("TooLarge")
        case _ if 400 <= status < 500:
            return CallFault("TooLarge" if code == "context_length_exceeded" else "Refused")
        case _:
            return CallFault("ServerError", trigger="ServerError", billed=True, retry_after=after)


def _error(body: bytes) -> tuple[str, str]:
    """Code and message of an error body, empty where there is none."""
    try:
        error = orjson.loads(body)["error"]
        return str(error.get("code")), str(error.get("message"))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return "", ""


def _seconds(header: str | None) -> float:
    """A Retry-After in seconds; dates are not waited for."""
    try:
        seconds = float(header or 0)
    except ValueError:
        return 0.0
    return min(seconds, _LONGEST_WAIT) if seconds > 0 else 0.0
