"""A model server that does as it is told: OpenAI's wire on loopback, every fault on a seed, and a count of every call as the witness.

It simulates: what it answers is drawn, never thought. Its own price book, in which a call is paid for as a strict provider would (failed and cut calls too), is
what budgets are held against. The fate of an attempt depends on the seed and on the attempt's id alone, not on the order in which attempts come.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from modelfleet.core.grants import GRANT_HEADER, Grant, GrantError, verify_grant

__all__ = ["FAULTS", "Fate", "Script", "ScriptedModel", "Seen"]

KEY = b"the scripted server's key"
FAULTS = ("rate_limited", "overloaded", "server_error", "reset_before", "reset_after", "cut", "garbage", "hang")
"""What may become of a call instead of an answer; each a share of calls in ``Script.faults``."""


@dataclass(frozen=True)
class Script:
    """How the server behaves. Shares between 0 and 1; seconds. ``plain``: JSON instead of a stream."""

    seed: int = 0
    faults: Mapping[str, float] = field(default_factory=dict)
    latency: tuple[float, float] = (0.0, 0.0)
    pause: float = 0.0
    retry_after: str | None = None
    no_usage: float = 0.0
    inflated: float = 0.0
    misfit: float = 0.0
    ignore_max_tokens: float = 0.0
    plain: float = 0.0
    completion: tuple[int, int] | None = None
    answer: Callable[[Mapping[str, Any], Grant], str] | None = None
    fate: Callable[[Grant, int], str | None] | None = None
    """Decides by grant and number of the call (from 1, over all attempts of its id); None: by the shares."""


@dataclass
class Seen:
    """One request as the witness remembers it."""

    grant: Grant
    served: tuple[str, str]
    fault: str | None
    began: float
    body: Mapping[str, Any]
    prompt: int = 0
    completion: int = 0
    cost: int = 0
    ended: str = "open"

    @property
    def call(self) -> str:
        """Id of the call, without the attempt."""
        return self.grant.call.rpartition("#")[0]


@dataclass(frozen=True)
class Fate:
    """What becomes of one request, drawn before anything is sent."""

    fault: str | None
    latency: float
    prompt: int
    completion: int
    no_usage: bool
    inflated: bool
    misfit: bool
    plain: bool


class ScriptedModel:
    """The server; an async context manager. ``served``: model name -> (pool, flavor) that may answer; ``book``: (pool, flavor) -> micro-dollars per million."""

    def __init__(self, script: Script, served: Mapping[str, tuple[tuple[str, str], ...]], book: Mapping[tuple[str, str], tuple[int, int]]) -> None:
        self.script = script
        self.served = served
        self.book = book
        self.seen: list[Seen] = []
        self.refused_grants: list[str] = []
        self.most: Counter[str] = Counter()
        self.at_once: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._client, "127.0.0.1", 0, backlog=2048)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    @property
    def cost(self) -> int:
        """Micro-dollars of all calls, by the server's own book."""
        return sum(seen.cost for seen in self.seen)

    def calls(self, run: str | None = None) -> Counter[str]:
        """How often each call id was asked."""
        return Counter(seen.call for seen in self.seen if run is None or seen.grant.run == run)

    # --- one connection ---

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        try:
            while request := await _read(reader):
                if not await self._answer(request, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, request: tuple[Mapping[str, str], Mapping[str, Any]], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        headers, body = request
        try:
            grant = verify_grant(headers.get(GRANT_HEADER, ""), [KEY], time.time())
            if grant.target != body["model"]:
                raise GrantError("the grant is for another target")
        except GrantError as error:
            self.refused_grants.append(error.message)
            return await _reply(writer, 403, {"error": {"message": error.message, "code": "grant"}})
        rng = random.Random(f"{self.script.seed}/{grant.call}")
        served = rng.choice(self.served[body["model"]])
        number = 1 + sum(seen.call == grant.call.rpartition("#")[0] for seen in self.seen) if self.script.fate else 1
        fate = self._fate(rng, body, grant, number)
        seen = Seen(grant, served, fate.fault, time.monotonic(), body, fate.prompt)
        self.seen.append(seen)
        self.at_once[grant.role] += 1
        self.most[grant.role] = max(self.most[grant.role], self.at_once[grant.role])
        try:
            return await self._act(seen, fate, reader, writer)
        finally:
            self.at_once[grant.role] -= 1
            if seen.ended == "open":
                seen.ended = "lost"

    def _fate(self, rng: random.Random, body: Mapping[str, Any], grant: Grant, number: int) -> Fate:
        script, most = self.script, int(body["max_tokens"])
        draw, fault = rng.random(), None
        for name in FAULTS:
            share = script.faults.get(name, 0.0)
            if fault is None and draw < share:
                fault = name
            draw -= share
        if script.fate is not None:
            fault = script.fate(grant, number)
        low, high = script.completion or (1, most)
        return Fate(
            fault=fault,
            latency=rng.uniform(*script.latency),
            prompt=rng.randint(1, _bound(body)),
            completion=rng.randint(min(low, most), min(high, most)) + (most if rng.random() < script.ignore_max_tokens else 0),
            no_usage=rng.random() < script.no_usage,
            inflated=rng.random() < script.inflated,
            misfit=rng.random() < script.misfit,
            plain=rng.random() < script.plain,
        )

    def _charge(self, seen: Seen, completion: int) -> None:
        given, made = self.book[seen.served]
        seen.completion = completion
        seen.cost = -(-(seen.prompt * given + completion * made) // 1_000_000)

    async def _act(self, seen: Seen, fate: Fate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if fate.fault in ("rate_limited", "overloaded"):
            seen.ended = fate.fault
            more = {"retry-after": self.script.retry_after} if self.script.retry_after else {}
            return await _reply(writer, 429 if fate.fault == "rate_limited" else 503, {"error": {"message": "later", "code": "busy"}}, more)
        # from here on a strict provider bills the prompt, whatever becomes of the call
        if fate.inflated:
            seen.prompt = _bound(seen.body) * 3
        self._charge(seen, 0)
        if fate.fault == "hang":
            await reader.read(1)
            seen.ended = "left"
            return False
        if await self._left(reader, fate.latency):
            seen.ended = "left"
            return False
        if fate.fault == "server_error":
            self._charge(seen, fate.completion)
            seen.ended = fate.fault
            return await _reply(writer, 500, {"error": {"message": "broken", "code": "oops"}}, self._named(seen))
        if fate.fault == "reset_before":
            self._charge(seen, fate.completion)
            seen.ended = fate.fault
            writer.transport.abort()
            return False
        tokens = self._tokens(seen, fate)
        usage = {"prompt_tokens": seen.prompt, "completion_tokens": len(tokens), "total_tokens": seen.prompt + len(tokens)}
        finish = "length" if len(tokens) >= int(seen.body["max_tokens"]) else "stop"
        if fate.plain:
            self._charge(seen, len(tokens))
            seen.ended = "answered"
            choice = {"index": 0, "message": {"role": "assistant", "content": "".join(tokens)}, "finish_reason": finish}
            whole: dict[str, Any] = {"object": "chat.completion", "choices": [choice]} | ({} if fate.no_usage else {"usage": usage})
            return await _reply(writer, 200, whole, self._named(seen))
        return await self._stream(seen, fate, tokens, (usage, finish), reader, writer)

    async def _stream(
        self, seen: Seen, fate: Fate, tokens: list[str], end: tuple[dict[str, int], str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        head = {"content-type": "text/event-stream", "transfer-encoding": "chunked", **self._named(seen)}
        writer.write(_head(200, head))
        stop = len(tokens) // 2 if fate.fault in ("reset_after", "cut", "garbage") else len(tokens)
        at_once = 1 if self.script.pause else 16
        for at in range(0, stop, at_once):
            part = tokens[at : min(at + at_once, stop)]
            self._charge(seen, at + len(part))
            writer.write(b"".join(_chunk({"choices": [{"index": 0, "delta": {"content": token}, "finish_reason": None}]}) for token in part))
            if await self._left(reader, self.script.pause):
                seen.ended = "left"
                return False
            await writer.drain()
        if fate.fault is not None:
            return await self._break(seen, fate, writer)
        usage, finish = end
        writer.write(_chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}))
        if not fate.no_usage:
            writer.write(_chunk({"choices": [], "usage": usage}))
        writer.write(_frame(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        self._charge(seen, len(tokens))
        seen.ended = "answered"
        await writer.drain()
        return True

    async def _break(self, seen: Seen, fate: Fate, writer: asyncio.StreamWriter) -> bool:
        self._charge(seen, min(fate.completion, int(seen.body["max_tokens"])))
        seen.ended = str(fate.fault)
        if fate.fault == "garbage":
            writer.write(_frame(b'data: {"choices": [{"delta": {"content": "x"\n\n'))
        if fate.fault == "reset_after":
            await writer.drain()
            writer.transport.abort()
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return False

    def _tokens(self, seen: Seen, fate: Fate) -> list[str]:
        """The answer, token by token; one that was scripted or must fit a schema is as long as it is."""
        form = seen.body.get("response_format")
        if self.script.answer is not None:
            text = self.script.answer(seen.body, seen.grant)
        elif fate.misfit:
            text = '{"unexpected": true'
        elif form is not None:
            text = json.dumps(_fitting(form["json_schema"]["schema"], seen.grant.call))
        else:
            return [f"w{index % 10} " for index in range(fate.completion)]
        most = int(seen.body["max_tokens"])
        step = max(1, -(-len(text) // most))
        return [text[at : at + step] for at in range(0, len(text), step)]

    def _named(self, seen: Seen) -> dict[str, str]:
        return {"x-modelfleet-served": "/".join(seen.served)}

    async def _left(self, reader: asyncio.StreamReader, seconds: float) -> bool:
        """Wait; whether the client left meanwhile."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return reader.at_eof()
        try:
            await asyncio.wait_for(reader.read(1), seconds)
        except TimeoutError:
            return False
        return True


async def _read(reader: asyncio.StreamReader) -> tuple[Mapping[str, str], Mapping[str, Any]] | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = head.decode().split("\r\n")[1:-2]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return headers, json.loads(await reader.readexactly(int(headers["content-length"])))


async def _reply(writer: asyncio.StreamWriter, status: int, body: Mapping[str, Any], more: Mapping[str, str] | None = None) -> bool:
    raw = json.dumps(body).encode()
    writer.write(_head(status, {"content-type": "application/json", "content-length": str(len(raw)), **(more or {})}) + raw)
    await writer.drain()
    return True


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


def _chunk(event: Mapping[str, Any]) -> bytes:
    return _frame(b"data: " + json.dumps(event).encode() + b"\n\n")


def _frame(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _bound(body: Mapping[str, Any]) -> int:
    """The most prompt tokens a byte-level tokenizer can make of a request: the server's own arithmetic, not the engine's."""
    form = body.get("response_format")
    schema = len(json.dumps(form["json_schema"]["schema"], separators=(",", ":"), ensure_ascii=False).encode()) if form else 0
    return 64 + schema + sum(16 + len(message["content"].encode()) for message in body["messages"])


def _fitting(schema: Mapping[str, Any], seed: str) -> Any:
    """Some value that fits a schema of the subset."""
    if "enum" in schema:
        return random.Random(seed).choice(schema["enum"])
    match schema["type"]:
        case "object":
            return {name: _fitting(part, f"{seed}/{name}") for name, part in schema.get("properties", {}).items()}
        case "array":
            return [_fitting(schema["items"], f"{seed}/{index}") for index in range(schema.get("minItems", 1))]
        case "string":
            return f"f{random.Random(seed).randint(0, 99)}"[: schema.get("maxLength", 10)]
        case "boolean":
            return random.Random(seed).random() < 0.8
        case _:
            return schema.get("minimum", 1)
