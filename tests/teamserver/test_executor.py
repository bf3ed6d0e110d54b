"""The parts around one call: what a reply means, what it costs, who goes next, who is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from dataclasses import replace

import httpx
import pytest
from hypothesis import given, settings, strategies as st
from tests.support.scripted_team import HOSTED, PRICES, TARGETS, chain_team, roles

from modelfleet.core.teams.budget import Amount, Caps, Ledger
from modelfleet.core.teams.strategies.protocol import Call, Message
from modelfleet.teamserver.account import UNREAD_TOKENS, Account, NotPaid
from modelfleet.teamserver.calls import MAX_TEXT, CallFault, Received, TokenUsage, ask, request_body, typed_value
from modelfleet.teamserver.circuits import FAILURES, PAUSE, Circuits
from modelfleet.teamserver.debts import Debts
from modelfleet.teamserver.executor import backoff
from modelfleet.teamserver.journal.protocol import CallRow, JournalError, JournalMisuse
from modelfleet.teamserver.metrics import TeamMetrics
from modelfleet.teamserver.pacing import Pacer
from modelfleet.teamserver.sse import LONGEST, SseParser, TooLongEvent

CALL = Call("map/0/1", "reader", (Message("system", "Find."), Message("user", "text")), 50)
BOSS_CALL = replace(CALL, role="boss", max_tokens=1000)


# --- server-sent events ---


@st.composite
def streams(draw):
    """Bytes of a stream, and the data of its events."""
    events = draw(
        st.lists(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=3), max_size=6)
    )
    raw = b"\xef\xbb\xbf" if draw(st.booleans()) else b""
    for lines in events:
        if draw(st.booleans()):
            raw += b": comment" + draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
        for line in lines:
            raw += (b"data: " if line.startswith(" ") else draw(st.sampled_from([b"data:", b"data: "]))) + line.encode()
            raw += draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
        # a line feed after a carriage return would belong to it
        raw += draw(st.sampled_from([b"id: 7\n\r\n", b"\r\n"] if raw.endswith(b"\n") else [b"\r", b"id: 7\r\r"]))
    return raw, ["\n".join(lines) for lines in events]


@settings(max_examples=80, deadline=None)
@given(streams(), st.lists(st.integers(1, 9)))
def test_events_are_the_same_however_the_bytes_are_cut(stream, cuts):
    raw, events = stream
    whole = SseParser().feed(raw + b"\n\n")
    parser, at, pieces = SseParser(), 0, []
    for cut in cuts:
        pieces.append(raw[at : at + cut])
        at += cut
    got = [event for piece in [*pieces, raw[at:], b"\n\n"] for event in parser.feed(piece)]
    assert got == whole
    assert [event for event in got if event] == [event for event in events if event]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=20))
def test_no_bytes_break_the_parser(pieces):
    parser, whole = SseParser(), SseParser()
    assert [event for piece in pieces for event in parser.feed(piece)] == whole.feed(b"".join(pieces))


@pytest.mark.parametrize("piece", [b"x" * 70_000, b"data: " + b"x" * 70_000 + b"\n"])
def test_an_event_without_end_is_none(piece):
    parser = SseParser()
    for _ in range(LONGEST // len(piece)):
        assert parser.feed(piece) == []
    with pytest.raises(TooLongEvent):
        [parser.feed(piece) for _ in range(2)]


# --- replies ---


async def asked(reply, got=None):
    got, heard = got or Received(), []
    transport = httpx.MockTransport(reply if callable(reply) else lambda _: reply)
    async with httpx.AsyncClient(transport=transport) as http:
        got.sent = True  # the transport of this test does not tell
        await ask(http, "http://gateway", b"{}", headers={}, got=got, on_text=heard.append)
    return got, heard


def stream(*events, end=b"data: [DONE]\n\n", **headers):
    raw = b"".join(b"data: " + (event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n\n" for event in events) + end
    return httpx.Response(200, headers={"content-type": "text/event-stream", **headers}, content=raw)


def delta(text=None, finish=None, **more):
    return {"choices": [{"index": 0, "delta": {"content": text, **more}, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}}


async def test_a_stream_is_text_usage_and_who_served_it():
    got, heard = await asked(stream(delta("a"), delta("é", reasoning_content="hm"), delta(None, "stop"), USAGE, **{"x-modelfleet-served": "legal/large/gpu"}))
    assert (got.text, got.finish, got.usage, got.served) == ("aé", "stop", TokenUsage(7, 2, 3), ("legal/large", "gpu"))
    assert heard == ["a", "é"]
    assert got.bytes == 5


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {"prompt_tokens": -1, "completion_tokens": 2},
        {"prompt_tokens": True, "completion_tokens": 2},
        {"prompt_tokens": 1.5, "completion_tokens": 2},
        {"prompt_tokens": 3},
        {"prompt_tokens": "3", "completion_tokens": 2},
        {"prompt_tokens": 3, "completion_tokens": 10**30},
        {"prompt_tokens": 3, "completion_tokens": [2]},
    ],
)
async def test_usage_that_is_none_counts_as_missing(usage):
    got, _ = await asked(stream(delta("a", "stop"), {"choices": [], "usage": usage}))
    assert got.usage is None


async def test_absurd_usage_is_more_than_any_bound_and_fits_into_every_figure_made_of_it():
    got, _ = await asked(stream(delta("a", "stop"), {"choices": [], "usage": {"prompt_tokens": 2**64 - 1, "completion_tokens": 2**64 - 1}}))
    assert got.usage == TokenUsage(10**9, 10**9)


@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
async def test_a_compressed_reply_is_not_unpacked(status, kind):
    bomb = gzip.compress(b": nothing\n" * 1_000_000)
    headers = {"content-type": kind, "content-encoding": "gzip"}
    fed = []

    async def body():
        for at in range(0, len(bomb), 100):
            fed.append(at)
            yield bomb[at : at + 100]

    with pytest.raises(CallFault) as fault:
        await asked(httpx.Response(status, headers=headers, content=body()))
    assert fault.value.error == ("ServerError" if status == 200 else "RateLimited")
    assert not fed


@pytest.mark.parametrize(
    "reply",
    [
        stream(delta("a")),
        stream(delta("a"), end=b""),
        stream(b"{"),
        stream(b"[]"),
        stream(b'{"choices": [7]}'),
        stream(b'{"choices": [{"delta": "x"}]}'),
        stream(delta("a"), {"error": {"message": "gone"}}),
        httpx.Response(200, content=b"not json"),
        httpx.Response(200, content=b"{}"),
        httpx.Response(200, content=b""),
    ],
)
async def test_a_reply_that_is_cut_or_wrong_is_a_server_error_that_may_be_billed(reply):
    with pytest.raises(CallFault) as fault:
        await asked(reply)
    assert (fault.value.error, fault.value.trigger, fault.value.billed) == ("ServerError", "ServerError", True)


def error(code, message=""):
    return {"error": {"code": code, "message": message}}


@pytest.mark.parametrize(
    ("status", "body", "error_class", "trigger", "billed"),
    [
        (429, {}, "RateLimited", "RateLimited", False),
        (503, {}, "Unavailable", "ServerError", False),
        (503, error("upstream_unavailable", "no candidate could serve the request: UF,URX"), "Unavailable", "ServerError", False),
        (503, error("upstream_unavailable", "no candidate could serve the request: UC"), "Unavailable", "ServerError", True),
        (503, error("upstream_unavailable", "no candidate could serve the request: URX,UR"), "Unavailable", "ServerError", True),
        (504, error("upstream_timeout"), "Timeout", "Timeout", True),
        (500, [], "ServerError", "ServerError", True),
        (502, "x", "ServerError", "ServerError", True),
        (400, error("context_length_exceeded"), "TooLarge", None, False),
        (413, {}, "TooLarge", None, False),
        (400, {}, "Refused", None, False),
        (401, {}, "Refused", None, False),
        (404, error("model_not_found"), "Refused", None, False),
    ],
)
async def test_what_a_status_means(status, body, error_class, trigger, billed):
    with pytest.raises(CallFault) as fault:
        await asked(httpx.Response(status, json=body))
    assert (fault.value.error, fault.value.trigger, fault.value.billed) == (error_class, trigger, billed)


@pytest.mark.parametrize(("header", "seconds"), [("2", 2.0), ("0.5", 0.5), ("-3", 0.0), ("nan", 0.0), ("inf", 3600.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0)])
async def test_patience_is_read_in_seconds(header, seconds):
    with pytest.raises(CallFault) as fault:
        await asked(httpx.Response(429, headers={"retry-after": header}))
    assert fault.value.retry_after == seconds


async def test_a_gateway_that_cannot_be_reached_bills_nothing():
    async with httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(CallFault) as fault:
            await ask(http, "http://127.0.0.1:1", b"{}", headers={}, got=Received(), on_text=lambda _: None)
    assert (fault.value.error, fault.value.billed) == ("Unavailable", False)


async def test_an_endless_answer_is_cut_off():
    with pytest.raises(CallFault) as fault:
        await asked(stream(*[delta("x" * 1000)] * (MAX_TEXT // 1000 + 1), delta(None, "stop")))
    assert fault.value.error == "InvalidOutput"


KEYS = ["choices", "delta", "content", "usage", "finish_reason", "error", "prompt_tokens"]
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4), max_leaves=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=30) | VALUES.map(lambda value: json.dumps(value).encode()), max_size=5), st.booleans())
def test_nothing_a_server_says_is_anything_but_an_answer_or_a_fault(events, plain):
    reply = httpx.Response(200, content=b"".join(events)) if plain else stream(*events)
    with contextlib.suppress(CallFault):
        asyncio.run(asked(reply))


SCHEMA = '{"properties":{"n":{"type":"integer"}},"required":["n"],"type":"object"}'


@pytest.mark.parametrize("text", ["", "x", "{", '{"n": "1"}', '{"n": NaN}', "[]", '{"n": 1} x', "[" * 100_000, '{"n": 1, "s": "\\ud800"}'])
def test_an_answer_that_does_not_fit_is_none(text):
    with pytest.raises(CallFault) as fault:
        typed_value(text, SCHEMA)
    assert fault.value.error == "InvalidOutput"


@pytest.mark.parametrize("deep", [101, 400, 600, 5000])
@pytest.mark.parametrize(("open_", "close"), [('{"n":', "}"), ("[", "]")])
def test_an_answer_too_deep_to_be_copied_is_none(deep, open_, close):
    with pytest.raises(CallFault) as fault:
        typed_value(f'{{"n": {open_ * deep}1{close * deep}}}', '{"type":"object"}')
    assert fault.value.error == "InvalidOutput"


def test_an_answer_that_fits_is_its_value():
    assert typed_value(' {"n": 3}\n', SCHEMA) == {"n": 3}


def test_the_request_is_what_the_gateway_wants():
    role = replace(roles()["boss"], temperature="0.2", top_p="0.9")
    body = json.loads(request_body(replace(CALL, schema=SCHEMA, max_tokens=9999), role, "policy:legal/frontier"))
    assert body["model"] == "policy:legal/frontier"
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (role.max_tokens, 0.2, 0.9)
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert body["response_format"]["json_schema"]["schema"] == json.loads(SCHEMA)
    assert body["messages"][1] == {"role": "user", "content": "text"}
    assert "response_format" not in json.loads(request_body(CALL, roles()["reader"], "x"))


# --- money of one attempt ---


class Silent:
    """A journal that takes everything."""

    async def settle_call(self, *_args, **_named):
        return None


def account(targets=TARGETS, cap=10**9, holdback=None, journal=None):
    plan = chain_team(of=roles(schema=False, max_tokens=1000))
    ledger, _ = Ledger.open(Caps(cap, None, None), holdback or Amount())
    return Account("run-1", plan, targets=targets, prices=PRICES, ledger=ledger, journal=journal or Silent(), metrics=TeamMetrics(), debts=Debts())


GPU, PAID = ("legal/large", "gpu"), ("legal/paid", "remote")


async def test_a_charge_is_at_the_price_of_whoever_answered_or_at_the_worst():
    for served, price in ((GPU, (1, 2)), (PAID, (3, 15)), (None, (3, 15)), (("legal/unknown", "x"), (3, 15))):
        books = account()
        attempt = books.attempt(BOSS_CALL, 0)
        assert books.reserve(attempt)
        assert books.settle(attempt, Received(sent=True, served=served, usage=TokenUsage(10, 20), finish="stop"), "Succeeded") is None
        assert books.ledger.charged.micro_usd == 10 * price[0] + 20 * price[1]
        assert not books.ledger.open_calls


async def test_what_is_cut_off_costs_what_came_on_our_own_servers_and_everything_elsewhere():
    for served, ours in ((GPU, True), (PAID, False), (None, False)):
        books = account(HOSTED)
        attempt = books.attempt(BOSS_CALL, 0)
        books.reserve(attempt)
        books.settle(attempt, Received(sent=True, served=served, bytes=100), "Cancelled", cut=True)
        expected = attempt.prompt_tokens * 1 + (100 + UNREAD_TOKENS) * 2 if ours else attempt.amount.micro_usd
        assert books.ledger.charged.micro_usd == expected
        assert books.ledger.assumed == 1


async def test_what_breaks_off_by_itself_costs_everything_everywhere():
    books = account(HOSTED)
    attempt = books.attempt(BOSS_CALL, 0)
    books.reserve(attempt)
    books.settle(attempt, Received(sent=True, served=GPU, bytes=1), "ServerError")
    assert books.ledger.charged.micro_usd == attempt.amount.micro_usd


async def test_a_report_beyond_the_bound_is_charged_and_named():
    books = account()
    attempt = books.attempt(BOSS_CALL, 0)
    books.reserve(attempt)
    assert books.settle(attempt, Received(sent=True, served=PAID, usage=TokenUsage(10_000, 2_000)), "Succeeded") == PAID
    assert books.ledger.charged.micro_usd == 10_000 * 3 + 2_000 * 15 > attempt.amount.micro_usd
    with pytest.raises(NotPaid) as refused:
        books.reserve(books.attempt(BOSS_CALL, 1))
    assert refused.value.cap == "ProviderOverran"
    assert books.reserve(books.attempt(replace(BOSS_CALL, final=True), 2))


@pytest.mark.parametrize(("usage", "charged"), [(TokenUsage(10, 1), None), (TokenUsage(10**9, 1), 10**9 * 3 + 15)])
async def test_usage_from_before_the_end_is_no_measure_of_the_whole(usage, charged):
    """Some providers count along in every chunk: what was broken off is charged as if nothing had been said, unless that was beyond the bound already."""
    for cut in (False, True):
        books = account(HOSTED)
        attempt = books.attempt(BOSS_CALL, 0)
        books.reserve(attempt)
        books.settle(attempt, Received(sent=True, served=PAID, usage=usage, bytes=4), "Timeout", cut=cut)
        assert books.ledger.charged.micro_usd == (charged or attempt.amount.micro_usd)
        assert books.ledger.assumed == (charged is None)


def lost(attempt, state="reserved", **end):
    return CallRow(
        "run-1", attempt.call.id, attempt.number, attempt.call.role, attempt.target, attempt.amount.micro_usd, attempt.amount.tokens, 0.0, state, **end
    )


FINAL_CALL = replace(BOSS_CALL, id="final", answers=True, final=True)


@pytest.mark.parametrize(("room", "fits"), [(0, False), (1, True)])
async def test_a_finalizing_call_lost_with_its_process_is_made_again_if_both_fit_under_the_cap(room, fits):
    amount = account().attempt(FINAL_CALL, 0).amount
    books = account(cap=2 * amount.micro_usd + room - 1, holdback=amount)
    books.recover([lost(books.attempt(FINAL_CALL, 0))])
    again = books.attempt(FINAL_CALL, 1)
    with contextlib.nullcontext() if fits else pytest.raises(NotPaid) as refused:
        assert books.reserve(again)
    assert fits or refused.value.cap == "RunCost"
    assert books.ledger.charged.micro_usd + books.ledger.reserved.micro_usd <= books.ledger.caps.micro_usd


async def test_attempts_of_a_former_process_are_counted_as_its_own_would_be():
    books = account()
    first, second = books.attempt(BOSS_CALL, 0), books.attempt(BOSS_CALL, 1)
    books.recover([lost(first, "released"), lost(second, "settled", charged=7, prompt_tokens=1, completion_tokens=2)])
    assert [(role.calls, role.cost_micro_usd) for role in books.roles] == [(2, 7)]


class Refusing:
    """A journal that refuses the first rows as told, then takes everything."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.rows = []

    async def settle_call(self, *row, **_named):
        if self.errors:
            raise self.errors.pop(0)
        self.rows.append(row[1:3])


async def test_what_the_journal_did_not_take_is_written_once_it_takes_rows_again(caplog):
    full = JournalError("JournalReadOnly", "full")
    journal = Refusing(full, JournalMisuse("JournalMisuse", "never reserved"), full)
    books = account(journal=journal)
    for number in range(3):
        attempt = books.attempt(BOSS_CALL, number)
        assert books.reserve(attempt)
        books.settle(attempt, Received(sent=True), "Succeeded")
    await books.written()
    assert "cannot be written down" in caplog.text
    debts = books._debts
    assert len(debts) == 2
    journal.errors = [full]
    await debts.pay()
    assert (len(debts), journal.rows) == (2, [])
    await debts.pay()
    assert (len(debts), journal.rows) == (0, [("map/0/1", 0), ("map/0/1", 2)])


def test_backoff_grows_and_is_the_same_for_the_same_attempt():
    role = replace(roles()["reader"], backoff=1.0)
    waits = [backoff(role, "run-1", f"map/0/1#{n}", n) for n in (1, 2, 3, 4)]
    assert waits == [backoff(role, "run-1", f"map/0/1#{n}", n) for n in (1, 2, 3, 4)]
    assert all(0.5 * 2 ** (n - 1) <= wait <= 1.5 * 2 ** (n - 1) for n, wait in enumerate(waits, 1))
    assert len({backoff(role, "run-1", f"map/0/{n}#0", 1) for n in range(50)}) > 25
    assert backoff(role, "run-1", "x", 10_000) <= 45.0


# --- pacing ---


class Line:
    """Calls that enter a pacer, and the order in which they leave it."""

    def __init__(self):
        self.pacer, self.left, self.tasks = Pacer(), [], []

    async def come(self, run, name, *, seat=("team", "role"), limit=1, admit=lambda: True, target="t"):
        async def call():
            await self.pacer.enter(target, run, seat, limit, admit)
            self.left.append(name)

        self.tasks.append(asyncio.ensure_future(call()))
        await asyncio.sleep(0)
        return self.tasks[-1]

    async def back(self, seat=("team", "role"), target="t"):
        self.pacer.leave(target, seat)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_runs_take_turns_and_a_run_keeps_its_order():
    line = Line()
    for name in ("a1", "a2", "a3", "b1", "b2", "c1"):
        await line.come(name[0], name)
    for _ in range(5):
        await line.back()
    assert line.left == ["a1", "a2", "b1", "c1", "a3", "b2"]
    assert line.pacer.waiting() == 0


async def test_a_run_without_money_holds_back_itself_alone():
    line, money = Line(), {"a": False}
    await line.come("a", "a1", limit=4, admit=lambda: money["a"])
    await line.come("a", "a2", limit=4)
    await line.come("b", "b1", limit=4)
    await asyncio.sleep(0)
    assert line.left == ["b1"]
    money["a"] = True
    line.pacer.poke("a")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert line.left == ["b1", "a1", "a2"]


async def test_a_refusal_reaches_the_one_that_waits_and_nobody_else():
    line = Line()

    def refuse():
        raise NotPaid("RunCost")

    await line.come("a", "a1")
    refused = await line.come("a", "a2", admit=refuse)
    await line.come("a", "a3")
    await line.back()
    with pytest.raises(NotPaid):
        await refused
    assert line.left == ["a1", "a3"]


async def test_who_gives_up_leaves_no_place_taken():
    line = Line()
    await line.come("a", "a1")
    second = await line.come("a", "a2")
    await line.come("a", "a3")
    second.cancel()
    await asyncio.sleep(0)
    line.pacer.leave("t", ("team", "role"))  # a3 is admitted now, and gives up before it hears of it
    line.tasks[-1].cancel()
    await asyncio.gather(*line.tasks, return_exceptions=True)
    assert line.pacer.taken(("team", "role")) == 0
    assert line.pacer.waiting() == 0
    await line.come("a", "a4")
    await asyncio.sleep(0)
    assert line.left == ["a1", "a4"]


async def test_seats_are_counted_apart():
    line = Line()
    await line.come("a", "small1", seat=("team", "small"))
    await line.come("a", "small2", seat=("team", "small"))
    await line.come("a", "boss1", seat=("team", "boss"))
    await line.come("a", "other", seat=("team", "small"), target="u", limit=2)
    await asyncio.sleep(0)
    assert sorted(line.left) == ["boss1", "other", "small1"]


# --- circuits ---


class Target:
    """One target's calls, by the order in which they leave."""

    def __init__(self):
        self.now = 0.0
        self.circuits = Circuits(lambda: self.now)

    def call(self, ok):
        entered = self.circuits.enter("t")
        if entered is not None:
            self.circuits.leave(entered, ok=ok)
        return entered is not None


def test_a_circuit_opens_after_failures_in_a_row_and_lets_one_try():
    target = Target()
    assert all(target.call(False) for _ in range(FAILURES - 1))
    assert target.call(None)
    assert target.call(True)
    assert all(target.call(False) for _ in range(FAILURES))
    assert not target.call(True)
    assert target.circuits.open() == ["t"]
    assert target.circuits.enter("u")
    target.now = PAUSE
    trial = target.circuits.enter("t")
    assert not target.call(True)
    target.circuits.leave(trial, ok=None)
    assert target.call(False)
    assert not target.call(True)
    target.now = 2 * PAUSE
    assert target.call(True)
    assert target.circuits.open() == []
    assert all(target.call(False) for _ in range(FAILURES))
    assert not target.call(True)


def test_failures_that_are_only_back_first_are_not_in_a_row():
    target = Target()
    together = [target.circuits.enter("t") for _ in range(64)]
    for number, entered in enumerate(together):
        if number % 3 == 0:
            target.circuits.leave(entered, ok=False)
    assert target.circuits.open() == []
    for number, entered in enumerate(together):
        if number % 3:
            target.circuits.leave(entered, ok=True)
    assert target.circuits.open() == []
    assert len(target.circuits._targets.get("t").passes) <= FAILURES


def test_failures_in_a_row_are_in_a_row_whatever_came_back_between():
    target = Target()
    together = [target.circuits.enter("t") for _ in range(10)]
    for number in (9, 2, 6, 0, 4, 3):
        target.circuits.leave(together[number], ok=number not in (2, 3, 4, 6))
    assert target.circuits.open() == []
    target.circuits.leave(together[5], ok=False)
    assert target.circuits.open() == ["t"]
    for number in (1, 7, 8):
        target.circuits.leave(together[number], ok=True)
    assert target.circuits.open() == ["t"]


def test_an_endpoint_that_overran_closes_what_reaches_it():
    now = [0.0]
    circuits = Circuits(lambda: now[0])
    circuits.overran(PAID)
    assert not circuits.enter("t", [GPU, PAID])
    assert circuits.enter("u", [GPU])
    assert circuits.open() == ["legal/paid/remote"]
    now[0] = PAUSE
    assert circuits.enter("t", [GPU, PAID])
