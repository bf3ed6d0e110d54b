"""Clients of the OpenAI door that leave, come back, or ask twice."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from tests.support.front_door import ASK, NOW, Open, ScriptedRun, done, ends, refuses
from tests.support.serve import serving

from modelfleet.teamserver import refusals
from modelfleet.teamserver.journal.protocol import RunRow
from modelfleet.teamserver.journal.sqlite import SqliteJournal
from modelfleet.teamserver.records import result_bytes

# --- lost clients ---


async def lose(url: str, started: asyncio.Queue[ScriptedRun], stream: bool, headers: dict[str, str] | None = None) -> ScriptedRun:
    """Ask, and hang up once the run has begun and before there is an answer; the run."""
    async with httpx.AsyncClient(base_url=url) as client:
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=ASK | {"stream": stream}, headers=headers, timeout=90))
        run = await started.get()
        await asyncio.sleep(0.1)
        asking.cancel()
    return run


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("silence", [0.02, 10.0])
async def test_the_run_of_a_lost_client_is_cancelled_after_the_grace(door: Open, stream: bool, silence: float) -> None:
    started: asyncio.Queue[ScriptedRun] = asyncio.Queue()
    opened = door(started.put, silence=silence, grace=0.05)
    async with serving(opened.app) as url:
        run = await lose(url, started, stream)
        assert await asyncio.wait_for(run.cancelled, 90) == "ClientGone"


async def test_a_client_that_left_before_the_first_byte_of_its_stream_is_lost_too(door: Open) -> None:
    began: list[ScriptedRun] = []

    def script(run: ScriptedRun) -> None:
        began.append(run)
        run.texts.put_nowait("be")

    opened = door(script, grace=0.0)
    sent = json.dumps(ASK | {"stream": True}).encode()
    messages = iter([{"type": "http.request", "body": sent, "more_body": False}])

    async def receive() -> dict[str, Any]:
        message = next(messages, None)
        if message is None:
            await asyncio.sleep(0.05)
        return message or {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        await asyncio.sleep(30)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": []}
    await opened.app(scope, receive, send)
    assert await asyncio.wait_for(began[0].cancelled, 90) == "ClientGone"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_lost_client_that_sent_a_key_finds_its_run_again(door: Open, stream: bool) -> None:
    started: asyncio.Queue[ScriptedRun] = asyncio.Queue()
    opened = door(started.put, silence=0.02, grace=0.0)
    async with serving(opened.app) as url:
        run = await lose(url, started, stream, {"idempotency-key": "k"})
        await asyncio.sleep(0.2)
        assert not run.cancelled.done()
        run.end("Succeeded", "Completed", "because")
        async with httpx.AsyncClient(base_url=url) as client:
            again = await client.post("/v1/chat/completions", json=ASK | {"stream": stream}, headers={"idempotency-key": "k"}, timeout=90)
        assert "because" in again.text
        assert again.headers["x-modelfleet-run"] == run.id
        assert len(opened.engine.requests) == 1


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("stream", [False, True])
async def test_who_waits_for_a_run_that_was_let_go_is_told_to_come_back_if_that_helps(door: Open, key: str | None, stream: bool) -> None:
    opened = door(ends("Failed", "RuntimeLost", None))
    headers = {"idempotency-key": key} if key else {}
    assert (await opened.chat(stream=stream)).status_code == 502
    opened.front.draining = True
    told = await opened.chat(headers, stream=stream)
    assert (told.status_code, told.json()["error"]["code"]) == (503, "not_ready")
    assert told.headers.get("retry-after") == ("5" if key else None)
    assert told.headers.get("x-should-retry") == (None if key else "false"), "without a key it would be a second run"
    assert ("ask again with the same Idempotency-Key" in told.json()["error"]["message"]) == (key is not None)


# --- Idempotency-Key ---

KEY = {"idempotency-key": "k", "x-modelfleet-caller": "a"}


async def test_the_same_key_and_body_join_one_run_even_at_the_same_time(door: Open) -> None:
    opened = door(done)
    answers = await asyncio.gather(*(opened.chat(KEY) for _ in range(5)))
    assert len({answer.headers["x-modelfleet-run"] for answer in answers}) == 1
    assert {answer.json()["choices"][0]["message"]["content"] for answer in answers} == {"because"}
    assert len(opened.engine.requests) == 1


async def test_another_body_is_refused_and_another_caller_has_keys_of_its_own(door: Open) -> None:
    opened = door(done)
    await opened.chat(KEY)
    other = await opened.chat(KEY, seed=1)
    assert (other.status_code, other.json()["error"]["code"], other.headers["x-should-retry"]) == (422, "idempotency_key_reused", "false")
    assert (await opened.chat(KEY | {"x-modelfleet-caller": "b"}, seed=1)).status_code == 200
    assert len(opened.engine.requests) == 2


async def test_a_key_whose_run_was_refused_is_free_again(door: Open) -> None:
    opened = door(refuses(refusals.Busy("full", 1)))
    assert (await opened.chat(KEY)).status_code == 429
    opened.engine.script = done
    assert (await opened.chat(KEY)).status_code == 200


async def recorded(journal: SqliteJournal, run_id: str, *, full: bool = True, result: bytes | None = None) -> None:
    """A run of a former process."""
    await journal.save_plan("r-1", b"{}", NOW)
    await journal.begin(RunRow(run_id, "legal/review", "r-1", "a", NOW, NOW + 60, 3600, full=full, request=b""))
    if result is not None:
        await journal.finish(run_id, "Succeeded", "Completed", result, NOW)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_that_ended_is_answered_from_the_journal(door: Open, stream: bool) -> None:
    opened = door(done)
    first = await opened.chat(KEY, stream=stream)
    run_id = first.headers["x-modelfleet-run"]
    await recorded(opened.journal, run_id, result=result_bytes(await opened.engine.going_on[run_id].result()))
    opened.engine.going_on.clear()
    again = await opened.chat(KEY, stream=stream)
    assert again.headers["x-modelfleet-run"] == run_id
    assert "because" in again.text
    assert len(opened.engine.requests) == 1


async def test_a_run_whose_answer_was_not_kept_says_so_and_one_not_yet_resumed_asks_to_wait(door: Open) -> None:
    opened = door(done)
    for key, full, result, status, code in (("x", False, b"gone", 409, "result_not_kept"), ("y", True, None, 503, "not_ready")):
        first = await opened.chat({"idempotency-key": key})
        await recorded(opened.journal, first.headers["x-modelfleet-run"], full=full, result=result)
        opened.engine.going_on.clear()
        again = await opened.chat({"idempotency-key": key})
        assert (again.status_code, again.json()["error"]["code"]) == (status, code)


async def test_a_claim_whose_run_was_never_begun_is_taken_over(door: Open) -> None:
    opened = door(done)
    first = await opened.chat(KEY)
    opened.engine.going_on.clear()
    again = await opened.chat(KEY)
    assert again.status_code == 200
    assert again.headers["x-modelfleet-run"] != first.headers["x-modelfleet-run"]
