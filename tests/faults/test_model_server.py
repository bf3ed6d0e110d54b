"""A model server that hangs, talks nonsense or breaks off, behind the whole gateway: the next candidate where that is allowed, a clear error where it is not.

And whatever a request met, the one after it is fine.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.router.test_gateway import TOOLS, Gateway, a_gateway
from tests.support.apiserver import ApiServer
from tests.support.envoy import Answer, Reply, Request, completion, stream

LIMIT = "5s"
"""Total time of a request to the policy with one candidate: longer than its two attempts may wait for a first byte."""


@dataclass
class Raw(Reply):
    """Bytes as they are instead of an HTTP answer; then the connection ends, or (``hangs``) stays open."""

    raw: bytes = b""
    hangs: bool = False


@pytest.fixture
async def gateway(apiserver_with_crds: ApiServer):
    async with a_gateway(apiserver_with_crds) as made:
        _may_be_raw(made.pods)
        _may_be_raw(made.endpoint)
        await made.answers("RuleMatched")
        yield made


def _may_be_raw(upstream: Any) -> None:
    whole = upstream._answer

    async def answer(reply: Reply, writer: asyncio.StreamWriter) -> bool:
        if not isinstance(reply, Raw):
            return await whole(reply, writer)
        writer.write(reply.raw)
        await writer.drain()
        if reply.hangs:
            await asyncio.sleep(60)
        return False

    upstream._answer = answer


def sse(words: int, *, cut: bool = False, then: list[Any] | None = None) -> Reply:
    """A stream's beginning, and how it goes on."""
    whole = stream(words=words)
    chunks = whole.chunks or []
    return replace(whole, chunks=[*chunks[: 2 * words], *(then or [])], cut=cut)


def with_usage(usage: bytes) -> Reply:
    """A stream that ends with this report."""
    return sse(1, then=[b'data: {"choices": [], "usage": ' + usage + b"}\n\n", b"data: [DONE]\n\n"])


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"

UNANSWERED = {
    "hangs": (Raw(hangs=True), True),
    "hangs after its head": (Raw(raw=HEAD[:20], hangs=True), True),
    "closes": (Raw(), False),
    "resets": (Reply(reset=True), False),
    "speaks another protocol": (Raw(raw=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)), False),
    "speaks no HTTP": (Raw(raw=b"SSH-2.0-model\r\n\r\n"), False),
    "has a head that is no head": (Raw(raw=b"HTTP/1.1 two hundred\r\nx\r\n\r\n"), False),
    "has two lengths": (Raw(raw=HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}"), False),
    "has an endless head": (Raw(raw=HEAD + b"".join(b"x-%d: %s\r\n" % (n, b"y" * 1000) for n in range(200))), False),
}
"""Server, and whether only a limit on the first byte ends the wait (whole answers have none: their first byte is their last)."""


async def test_before_the_first_byte_the_next_candidate_serves(gateway: Gateway) -> None:
    for case, (reply, silent) in UNANSWERED.items():
        for how in ({"stream": True},) if silent else ({"stream": True}, {}):
            async with server_that(gateway, reply):
                answer = await gateway.chat(**how)
            served = (answer.status, answer.headers.get("x-modelfleet-served"), answer.headers.get("x-modelfleet-attempts"), answer.complete)
            assert served == (200, f"{gateway.namespace}/boss/far", "2", True), (case, answer)


async def test_without_another_candidate_the_error_is_plain(gateway: Gateway) -> None:
    model = await alone(gateway)
    for case, (reply, silent) in UNANSWERED.items():
        for how in ({"stream": True}, {}):
            async with server_that(gateway, reply, model):
                answer = await gateway.chat(model=model, **how)
            wanted = {(504, "upstream_timeout")} if silent else {(502, "upstream_unavailable"), (503, "upstream_unavailable")}
            assert (answer.status, answer.json["error"]["code"]) in wanted, (case, how, answer)
            assert answer.json["error"]["message"], (case, answer)
            assert answer.complete, (case, answer)


BROKEN = {
    "cut between events": sse(3, cut=True),
    "cut inside an event": sse(2, cut=True, then=[b'data: {"choices": [{"delta": {"cont']),
    "ended without its end": sse(2),
    "a length that is a lie": Raw(raw=HEAD + b"content-length: 500\r\n\r\n" + b'{"choices": ['),
    "a chunk that is no chunk": Raw(raw=HEAD.replace(b"application/json", b"text/event-stream") + b"transfer-encoding: chunked\r\n\r\nzz\r\nnonsense\r\n"),
}


async def test_after_the_first_byte_nobody_is_asked_again(gateway: Gateway) -> None:
    """The client has part of an answer: another model's words after it would be worse than an end that it can see."""
    for case, reply in BROKEN.items():
        async with server_that(gateway, reply):
            asked = len(gateway.endpoint.requests)
            answer = await gateway.chat(stream=True)
            assert not [r for r in gateway.endpoint.requests[asked:] if r.method == "POST"], case
        assert (answer.status, answer.headers["x-modelfleet-served"]) == (200, f"{gateway.namespace}/small/cpu"), (case, answer)
        assert b"[DONE]" not in answer.body, (case, answer)
        assert answer.complete == (case == "ended without its end"), (case, "a cut is passed on as a cut")


GARBAGE = {
    "no JSON": (Reply(body=b"\x00\xff<html>"), {}),
    "JSON of another kind": (Reply(body=b'[{"usage": "yes"}, null]'), {}),
    "usage that cannot be": (Reply(body=b'{"choices": [], "usage": {"prompt_tokens": -5, "completion_tokens": 1e400, "total_tokens": "many"}}'), {}),
    "usage without end": (Reply(body=b'{"usage": ' + b"[" * 20_000), {}),
    "events that are no JSON": (sse(1, then=[b"data: {{{\n\n", b"event: \xff\xfe\n\n", b"data: [DONE]\n\n"]), {"stream": True}),
    "an event of a megabyte": (sse(1, then=[b"data: " + b"x" * 1_000_000 + b"\n\n", b"data: [DONE]\n\n"]), {"stream": True}),
    "usage beyond all bounds": (Reply(body=b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1000000000000}}'), {}),
    "a usage event of nobody": (with_usage(b'{"prompt_tokens": null, "completion_tokens": "many"}'), {"stream": True}),
    "a usage event below nothing": (with_usage(b'{"prompt_tokens": 3, "completion_tokens": -5}'), {"stream": True}),
    "a usage event beyond all bounds": (with_usage(b'{"prompt_tokens": 3, "completion_tokens": 1e300}'), {"stream": True}),
    "a usage event without end": (with_usage(b'{"prompt_tokens": 3, "completion_tokens": 1e999}'), {"stream": True}),
}


async def test_nonsense_in_an_answer_is_the_clients_to_see_and_counts_as_an_estimate(gateway: Gateway) -> None:
    pool = f"{gateway.namespace}/small"
    for case, (reply, how) in GARBAGE.items():
        before = await tokens(gateway, pool)
        async with server_that(gateway, reply):
            answer = await gateway.chat(**how)
        assert (answer.status, answer.headers["x-modelfleet-served"], answer.complete) == (200, f"{pool}/cpu", True), (case, answer)
        expected = reply.body if reply.chunks is None else b"".join(c for c in reply.chunks if isinstance(c, bytes))
        assert answer.body == expected, (case, "not a byte is changed")
        for _ in range(1800):
            after = await tokens(gateway, pool)
            if any(after[k] > before.get(k, 0) for k in after if "estimated" in k):
                break
            await asyncio.sleep(0.05)
        grown = {k: after[k] - before.get(k, 0) for k in after}
        assert any(grown[k] > 0 for k in grown if "estimated" in k), f"{case}: {grown}"
        assert all(0 <= amount < 2_000_000 for amount in grown.values()), f"{case}: {grown}"


async def test_a_stream_that_stops_in_the_middle_ends_with_the_request_and_the_client_may_leave(gateway: Gateway) -> None:
    stuck = asyncio.Event()
    whole, gateway.pods.reply = gateway.pods.reply, lambda _: sse(2, then=[stuck])
    body = json.dumps({"model": "auto", "stream": True, "messages": [{"role": "user", "content": "hello"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(head + body)
    await asyncio.wait_for(reader.readuntil(b"w1"), 90)
    gateway.pods.reply = whole
    answers = await asyncio.gather(*(gateway.chat(stream=bool(n % 2)) for n in range(6)))
    assert {(a.status, a.complete) for a in answers} == {(200, True)}, "others are served meanwhile"
    writer.close()
    stuck.set()
    await fine_again(gateway, whole)


async def alone(gateway: Gateway) -> str:
    """A policy with one candidate and a limit in time; its model's name."""
    model = f"{gateway.namespace}-alone"
    spec = {
        "entrypoints": [{"name": model}], "candidates": [{"name": "small", "poolRef": {"name": "small"}}], "default": {"chain": ["small"]},
        "fallback": {"firstByteTimeout": "2s", "totalTimeout": LIMIT, "maxAttempts": 2},
    }  # fmt: skip
    meta = {"name": "alone", "namespace": gateway.namespace}
    gateway.server.apply(json.dumps({"apiVersion": "modelfleet.dev/v1alpha1", "kind": "RoutingPolicy", "metadata": meta, "spec": spec}))
    for _ in range(1000):
        if (await gateway.chat(model=model)).status == 200:
            return model
        await asyncio.sleep(0.05)
    raise AssertionError(gateway.logs()[-3000:])


@asynccontextmanager
async def server_that(gateway: Gateway, reply: Reply, model: str = "auto") -> AsyncIterator[None]:
    """The pod answers so; afterwards it is itself again, and so is what the gateway says."""
    whole, gateway.pods.reply = gateway.pods.reply, lambda _: reply
    yield
    await fine_again(gateway, whole, model)


async def fine_again(gateway: Gateway, whole: Callable[[Request], Reply], model: str = "auto") -> None:
    """The server is itself again, and so are its answers: at once where nothing was ejected, else within its ejection."""
    gateway.pods.reply = whole
    answer: Answer | None = None
    for _ in range(1000):
        answer = await gateway.chat(model=model)
        assert answer.status == 200 or model != "auto", answer
        if answer.headers.get("x-modelfleet-served") == f"{gateway.namespace}/small/cpu":
            break
        await asyncio.sleep(0.1)
    assert answer is not None
    assert (answer.status, answer.headers.get("x-modelfleet-served")) == (200, f"{gateway.namespace}/small/cpu"), answer
    assert answer.json == json.loads(completion(prompt=11, made=7).body)
    far = await gateway.chat(tools=TOOLS)
    assert (far.status, far.complete) == (200, True)
    assert gateway.router is not None
    assert gateway.router.poll() is None, gateway.logs()[-3000:]
    assert "Traceback" not in gateway.logs(), gateway.logs()[-3000:]


async def tokens(gateway: Gateway, pool: str) -> dict[tuple[str, ...], float]:
    return {labels: value for (name, labels), value in (await gateway.samples()).items() if name == "usage_tokens_total" and pool in labels}
