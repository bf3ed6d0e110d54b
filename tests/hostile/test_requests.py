"""Two thousand malformed requests against the real gateway: each is told no in OpenAI's words or served, nothing breaks, and a good client notices nothing.

Where bytes are not HTTP at all the gateway may hang up instead. A seed that found something stays in FOUND, with what it found.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from tests.hostile.shots import Shot, shot
from tests.hostile.wire import MARK
from tests.router.test_gateway import Gateway, a_gateway
from tests.support.apiserver import ApiServer
from tests.support.envoy import Reply, Request, completion, stream

SEEDS = range(2000)
FOUND: tuple[int, ...] = ()
"""Seeds beyond SEEDS that broke something once."""
AT_ONCE = 16
PATIENCE = 90.0
BY_CODEC = {501, 505}
"""Statuses of 5xx that HTTP asks for: a transfer coding nobody knows, a version nobody speaks."""


@dataclass
class Outcome:
    """What came back. ``status`` 0: the connection ended without an answer."""

    shot: Shot
    status: int
    headers: dict[str, str]
    body: bytes


def replies(request: Request) -> Reply:
    """An upstream that answers whatever it is given."""
    with suppress(ValueError, AttributeError):
        if request.json.get("stream") is True:
            return stream(words=3)
    return completion()


@pytest.mark.timeout(1200)
async def test_two_thousand_malformed_requests(apiserver_with_crds: ApiServer) -> None:
    async with a_gateway(apiserver_with_crds) as gateway:
        gateway.pods.reply = replies
        baseline = await gateway.answers("RuleMatched")
        expected = [h for h in gateway.pods.requests[-1].headers if h.startswith(("x-modelfleet-", "x-envoy-"))]
        assert gateway.router is not None
        assert gateway.envoy.process is not None
        pids = (gateway.router.pid, gateway.envoy.process.pid)
        done = asyncio.Event()
        healthy = asyncio.create_task(a_good_client(gateway, done))
        outcomes = await fire(gateway.port, [shot(seed) for seed in (*SEEDS, *FOUND)])
        done.set()
        answered = await healthy

        story = Counter(f"{o.shot.like}: {o.status}" for o in outcomes)
        wrong = [
            f"seed {o.shot.seed} ({o.shot.like}, {o.status}): {fault} {o.body[:200]!r} {o.shot.raw[:160]!r}" for o in outcomes if (fault := judged(o, baseline))
        ]
        assert not wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong[:25]) + f"\n{sorted(story.items())}"
        assert len(outcomes) >= 2000
        assert answered > 20, "the good client was there all the while"
        assert leaks(gateway, set(expected)) == []
        assert (gateway.router.poll(), gateway.envoy.process.poll()) == (None, None)
        assert (gateway.router.pid, gateway.envoy.process.pid) == pids
        assert await gateway.get("/healthz") == (200, (await gateway.get("/healthz"))[1])
        after = await gateway.answers("RuleMatched")
        assert told(after.headers) == told(baseline.headers)
        assert "Traceback" not in gateway.logs(), gateway.logs()[-3000:]
        assert "DeciderLost" not in {o.headers.get("x-modelfleet-decision", "").rpartition("why=")[2] for o in outcomes}
        served = {o.shot.like for o in outcomes if o.status == 200}
        assert {"forged", "strangers", "good-chunks", "wrong-types"} <= served


async def fire(port: int, shots: list[Shot]) -> list[Outcome]:
    """All of them, a few at a time, each on a connection of its own."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(each: Shot) -> Outcome:
        async with places:
            return await exchange(port, each)

    return await asyncio.gather(*(one(each) for each in shots))


async def exchange(port: int, each: Shot) -> Outcome:
    """Send the bytes and read what comes, to the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                writer.write(each.raw)
                await writer.drain()
                if each.half_close and not (received := await at_once(reader)):
                    writer.write_eof()
            with suppress(ConnectionError):
                while part := await reader.read(65536):
                    received += part
    except TimeoutError:
        return Outcome(each, -1, {}, received)
    finally:
        writer.close()
    return parsed(each, received)


async def at_once(reader: asyncio.StreamReader) -> bytes:
    """What comes without more being sent; empty: the gateway waits for the rest."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            return await reader.read(65536)
    return b""


def parsed(each: Shot, received: bytes) -> Outcome:
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) < 2 or not words[1].isdigit():
        return Outcome(each, 0, {}, received)
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    return Outcome(each, int(words[1]), headers, body)


def judged(outcome: Outcome, baseline: Any) -> str:
    """What is wrong with an outcome; empty: nothing."""
    each, status = outcome.shot, outcome.status
    if status == -1:
        return "no answer in time"
    if each.meant == "framing":
        return explained(outcome) if 400 <= status < 500 else "a server error" if status >= 500 and status not in BY_CODEC else ""
    if status == 0:
        return "no answer"
    if status >= 500:
        return "a server error"
    if each.meant == "good":
        return good(outcome, baseline)
    if status == 200:
        return "served" if each.meant == "refused" else ""
    return explained(outcome)


def good(outcome: Outcome, baseline: Any) -> str:
    """As decided without the forged headers, and served."""
    if outcome.status != 200:
        return "refused, though only its headers were strange"
    if told(outcome.headers) != told(baseline.headers):
        return f"another decision: {told(outcome.headers)}"
    return f"{MARK} came back" if MARK in str(outcome.headers) else ""


def told(headers: dict[str, str]) -> list[str]:
    """The decision without its id, who served, in how many attempts."""
    return [headers.get("x-modelfleet-decision", "").partition(";")[2], headers.get("x-modelfleet-served", ""), headers.get("x-modelfleet-attempts", "")]


def explained(outcome: Outcome) -> str:
    """An error is JSON in OpenAI's shape, in few words, and quotes nothing back."""
    if outcome.shot.raw.startswith(b"HEAD"):
        return ""
    try:
        error = json.loads(outcome.body)["error"]
    except (ValueError, KeyError, TypeError):
        return "an error without OpenAI's body"
    if not (set(error) >= {"message", "type", "param", "code"} and error["message"] and len(error["message"]) < 1024):
        return "an error that does not explain itself"
    if not outcome.headers.get("content-type", "").startswith("application/json"):
        return "an error that is not application/json"
    return f"{MARK} came back" if MARK.encode() in outcome.body else ""


async def a_good_client(gateway: Gateway, done: asyncio.Event) -> int:
    """Asks all the while and is always answered as ever."""
    answered = 0
    while not done.is_set():
        answer = await gateway.chat(user="good")
        assert answer.status == 200, (answer, gateway.logs()[-2000:])
        assert answer.headers["x-modelfleet-decision"].endswith("why=RuleMatched"), answer.headers
        answered += 1
        await asyncio.sleep(0.1)
    return answered


def leaks(gateway: Gateway, expected: set[str]) -> list[str]:
    """Headers of ours or of Envoy's that reached an upstream and should not have, and forged values of any."""
    found = set()
    for request in (*gateway.pods.requests, *gateway.endpoint.requests):
        for name, value in request.headers.items():
            if name.startswith(("x-modelfleet-", "x-envoy-")) and name not in expected:
                found.add(f"{name}: {value[:80]}")
            if MARK in value and name.startswith(("x-modelfleet", "x-envoy", "authorization", "cookie", "api-key", "x-api-key", "proxy-")):
                found.add(f"{name}: {value[:80]}")
    return sorted(found)
