"""The OpenAI door: names, every terminal state, streams, refusals."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.support.front_door import Open, ScriptedRun, done, ends, events, refuses

from modelfleet.teamserver import refusals
from modelfleet.teamserver.run import Torn

BLOCK = {
    "revision": "r-0123456789", "state": "Succeeded", "stopReason": "Completed", "complete": True, "cost_micro_usd": 777, "calls": 2, "usageAssumed": True,
    "byRole": [{"role": "boss", "calls": 2, "prompt_tokens": 30, "completion_tokens": 12, "cost_micro_usd": 777}], "budget_left_micro_usd": 9,
    "report": {"steps": 1},
}  # fmt: skip
USAGE = {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42, "prompt_tokens_details": {"cached_tokens": 5}}


async def test_models_lists_what_can_be_called_full_names_first(door: Open) -> None:
    answer = (await door(done).client.get("/v1/models")).json()
    assert [(m["id"], m["owned_by"], m["description"]) for m in answer["data"]] == [
        ("legal/review", "modelfleet", "about legal/review"), ("legal/twin", "modelfleet", "about legal/twin"),
        ("shop/twin", "modelfleet", "about shop/twin"), ("review", "modelfleet", "about legal/review"),
    ]  # fmt: skip


async def test_a_run_gets_what_the_client_asked_and_who_asked(door: Open) -> None:
    opened = door(done)
    answer = await opened.chat({"x-modelfleet-caller": "team-a"}, modelfleet={"max_cost": "0.01", "deadline_ms": 2000})
    request = opened.engine.requests[0]
    assert (request.team.key, request.caller, request.max_cost_micro_usd, request.deadline_seconds) == ("legal/review", "team-a", 10_000, 2.0)
    assert request.task.question == "why?"
    assert answer.headers["x-modelfleet-run"] == request.run_id
    await opened.chat()
    assert opened.engine.requests[1].caller == "-"
    assert (await opened.chat({"x-modelfleet-caller": "a\tb"})).json()["error"]["param"] == "x-modelfleet-caller"


async def test_a_whole_answer_says_what_it_cost(door: Open) -> None:
    answer = await door(done).chat()
    body = answer.json()
    run = answer.headers["x-modelfleet-run"]
    assert answer.status_code == 200
    assert body["modelfleet"] == {"run": run} | BLOCK
    assert body["usage"] == USAGE
    assert body["choices"] == [{"index": 0, "message": {"role": "assistant", "content": "because", "refusal": None}, "finish_reason": "stop", "logprobs": None}]
    assert (body["id"], body["object"], body["model"], body["system_fingerprint"]) == (f"chatcmpl-{run}", "chat.completion", "review", "r-0123456789")


STATES = [
    ("Succeeded", "Completed", "x", 200, "stop"),
    ("PartiallySucceeded", "BranchesFailed", "x", 200, "stop"),
    ("PartiallySucceeded", "MaxIterations", "x", 200, "stop"),
    *(("BudgetExhausted", cap, "x", 200, "length") for cap in ("RunCost", "RunTokens", "RunModelCalls", "ProviderOverran")),
    ("BudgetExhausted", "RunCost", None, 429, "insufficient_quota"),
    ("TimedOut", "WallClock", "x", 200, "length"),
    ("TimedOut", "ClientDeadline", None, 504, "timeout"),
    *(("Cancelled", by, None, 409, "run_cancelled") for by in ("CancelRequested", "TeamDeleted")),
    ("Failed", "RoleUnavailable", None, 503, "team_failed"),
    *(("Failed", why, None, 502, "team_failed") for why in ("InvalidOutput", "TooManyBranchesFailed", "PriceUnknown", "RuntimeLost", "Internal")),
]


@pytest.mark.parametrize(("state", "reason", "answer", "status", "word"), STATES)
async def test_every_terminal_state_whole(door: Open, state: str, reason: str, answer: str | None, status: int, word: str) -> None:
    got = await door(ends(state, reason, answer)).chat()
    body = got.json()
    assert got.status_code == status
    assert body["modelfleet"]["state"] == state
    assert body["modelfleet"]["stopReason"] == reason
    assert body["modelfleet"]["complete"] is (state == "Succeeded")
    assert body["usage"] == USAGE
    if status == 200:
        assert body["choices"][0]["finish_reason"] == word
    else:
        assert body["error"]["code"] == word
        assert f"{state}/{reason}" in body["error"]["message"]
        assert got.headers["x-should-retry"] == "false"
        assert "retry-after" not in got.headers


@pytest.mark.parametrize(("state", "reason", "answer", "status", "word"), STATES)
async def test_every_terminal_state_streamed_as_whole(door: Open, state: str, reason: str, answer: str | None, status: int, word: str) -> None:
    def script(run: ScriptedRun) -> None:
        run.end(state, reason, *([answer] if answer else []))

    got = await door(script).chat(stream=True, stream_options={"include_usage": True})
    assert got.status_code == status, "an end without any text still has its status"
    if status != 200:
        assert got.json()["error"]["code"] == word
        assert got.headers["x-should-retry"] == "false"
        return
    *chunks, last, mark = events(got.text)
    assert mark == "[DONE]"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, word]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == answer
    assert (last["choices"], last["usage"]) == ([], USAGE)
    assert last["modelfleet"]["stopReason"] == reason


async def test_a_stream_without_usage_ends_with_the_block_on_its_last_chunk(door: Open) -> None:
    *chunks, mark = events((await door(done).chat(stream=True)).text)
    assert mark == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [{"role": "assistant", "content": "be"}, {"content": "cause"}, {}]
    assert not any("usage" in chunk for chunk in chunks)
    assert [chunk.get("modelfleet") for chunk in chunks[:-1]] == [None, None]
    assert chunks[-1]["modelfleet"] | {"run": ""} == {"run": ""} | BLOCK
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_an_empty_answer_is_a_stream_too(door: Open) -> None:
    *chunks, mark = events((await door(ends("Succeeded", "Completed", None)).chat(stream=True)).text)
    assert mark == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [{"role": "assistant", "content": ""}, {}]


async def test_comments_come_until_content_and_a_failure_then_is_an_error_event(door: Open) -> None:
    def script(run: ScriptedRun) -> None:
        asyncio.get_running_loop().call_later(0.2, run.end, "Failed", "RoleUnavailable")

    got = await door(script, silence=0.02).chat(stream=True)
    assert got.status_code == 200
    blocks = got.text.strip().split("\n\n")
    assert len(blocks) > 2
    assert set(blocks[:-1]) == {": the team is at work"}
    name, data = blocks[-1].split("\n")
    assert name == "event: error"
    error = json.loads(data.removeprefix("data: "))
    assert (error["error"]["code"], error["modelfleet"]["stopReason"], error["usage"]) == ("team_failed", "RoleUnavailable", USAGE)
    assert "[DONE]" not in got.text


async def test_a_failure_after_content_is_an_error_event_without_a_finish_reason(door: Open) -> None:
    def script(run: ScriptedRun) -> None:
        run.texts.put_nowait("half ")
        run.end("TimedOut", "WallClock")

    got = (await door(script).chat(stream=True)).text
    chunk, error = events(got)
    assert chunk["choices"][0]["finish_reason"] is None
    assert error["error"]["code"] == "timeout"
    assert "[DONE]" not in got


@pytest.mark.parametrize("sent", [["half"], []])
@pytest.mark.parametrize(("state", "status", "code"), [("Succeeded", 502, "the answer changed"), ("Cancelled", 409, "run_cancelled")])
async def test_text_that_turned_out_not_to_be_the_answer_is_never_ended_well(door: Open, sent: list[str], state: str, status: int, code: str) -> None:
    def script(run: ScriptedRun) -> None:
        for item in (*sent, Torn("torn")):
            run.texts.put_nowait(item)
        run.end(state, "X", answer="another")

    got = await door(script).chat(stream=True)
    assert code in got.text
    assert '"cost_micro_usd":777' in got.text
    assert "[DONE]" not in got.text
    assert got.status_code == (200 if sent else status)


@pytest.mark.parametrize(
    ("model", "status", "code", "words"),
    [
        ("nobody", 404, "model_not_found", "no team is called 'nobody'"),
        ("twin", 404, "model_not_found", "write its full name: legal/twin or shop/twin"),
        ("legal/broken", 503, "team_not_ready", "there is no pool legal/x"),
    ],
)
async def test_names_that_cannot_be_called(door: Open, model: str, status: int, code: str, words: str) -> None:
    opened = door(done)
    got = await opened.chat(model=model)
    assert (got.status_code, got.json()["error"]["code"]) == (status, code)
    assert words in got.json()["error"]["message"]
    assert ("retry-after" in got.headers) == (status == 503)
    assert opened.engine.requests == []


@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (refusals.Busy("full", 7.2), 429, "rate_limit_exceeded", "8"),
        (refusals.Draining("leaving", 0.1), 503, "not_ready", "1"),
        (refusals.JournalUnavailable("read-only", 5), 503, "not_ready", "5"),
        (refusals.Suspended("suspended"), 503, "team_suspended", None),
        (refusals.BudgetBelowMinimum("too little"), 400, "budget_below_minimum", None),
        (refusals.TooLong("too long"), 400, "context_length_exceeded", None),
        (refusals.PriceUnknown("no price"), 502, "team_failed", None),
        (refusals.RoleUnavailable("nobody"), 503, "team_failed", None),
        (refusals.InvalidTask("no items"), 400, "invalid_value", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_that_is_not_started_says_why(door: Open, error: refusals.NotStarted, status: int, code: str, retry: str | None, stream: bool) -> None:
    got = await door(refuses(error)).chat(stream=stream)
    assert (got.status_code, got.json()["error"]["code"], got.json()["error"]["message"]) == (status, code, error.message)
    assert got.headers.get("retry-after") == retry
    assert got.headers.get("x-should-retry") == ("false" if retry is None and status > 400 else None)


async def test_a_cap_of_the_client_that_is_too_low_is_named(door: Open) -> None:
    got = await door(refuses(refusals.BudgetBelowMinimum("too little"))).chat(modelfleet={"max_cost": "0.000001"})
    assert got.json()["error"]["param"] == "modelfleet.max_cost"


async def test_not_ready_is_503_with_a_time_to_come_back(door: Open) -> None:
    opened = door(done)
    opened.trouble = "this process is leaving"
    got = await opened.chat()
    assert (got.status_code, got.headers["retry-after"], got.json()["error"]["message"]) == (503, "5", "this process is leaving")
    assert (await opened.client.get("/readyz")).status_code == 503
    opened.trouble = None
    assert (await opened.client.get("/readyz")).text == "ready"


async def test_bodies_that_are_too_large_or_no_json_are_400(door: Open) -> None:
    opened = door(done, max_body_bytes=1000)
    large = await opened.chat(user="x" * 1000)
    assert (large.status_code, large.json()["error"]["code"]) == (400, "request_too_large")
    broken = await opened.client.post("/v1/chat/completions", content=b'{"model":')
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_json")
    assert opened.engine.requests == []


async def test_other_paths_and_methods_are_answered_in_json(door: Open) -> None:
    opened = door(done)
    for method, path, status in (("GET", "/v1/completions", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405)):
        got = await opened.client.request(method, path)
        assert (got.status_code, got.json()["error"]["code"]) == (status, "not_found")


async def test_a_bug_is_not_repeated_by_clients(door: Open) -> None:
    got = await door(refuses(RuntimeError("bug"))).chat()
    assert (got.status_code, got.json()["error"]["code"], got.headers["x-should-retry"]) == (500, "internal_error", "false")
