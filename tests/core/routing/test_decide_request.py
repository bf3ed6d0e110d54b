"""Reading a request: the span of the top-level model, bodies that mean two things, bodies made to be slow."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings, strategies as st

from modelfleet.api.conditions import DecisionReason
from modelfleet.core.routing.request import BadRequest, read_request

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("model"), inner, max_size=3),
    max_leaves=8,
)
READ = {"model", "messages", "max_tokens", "max_completion_tokens", "response_format", "stream", "stream_options", "user"}


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(st.text().filter(lambda k: k not in READ), values, max_size=5),
    st.integers(0, 5),
    st.text(min_size=1),
    st.booleans(),
    st.sampled_from([None, 1]),
)
def test_the_span_is_the_top_level_model_whatever_stands_around_it(other: dict, at: int, model: str, ascii_only: bool, indent: int | None) -> None:
    items = list(other.items())
    items.insert(min(at, len(items)), ("model", model))
    body = json.dumps(dict(items), ensure_ascii=ascii_only, indent=indent).encode()
    facts = read_request(body, {}, model)
    start, end = facts.model_span
    assert facts.model == model
    assert json.loads(body[start:end]) == model
    assert json.loads(body[:start] + b'"NEW"' + body[end:]) == {**other, "model": "NEW"}


PIECES = [
    b'{"model":"a"', b'"model"', b":", b",", b"{", b"}", b"[", b"]", b'"', b"\\", b"null", b"1e999", b"\xff", b"\\ud800",
    b'"messages":[{"role":"user","content":"x"}]',
    b'"user":"\\ud800"', b'"tools":[]', b"-", b"\x00", b'"max_tokens":1', b'"\\u006dodel":"b"', b'"content":[{"type":"text","text":"\\udfff"}]', b" ",
]  # fmt: skip


@settings(max_examples=3000, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=12).map(b"".join), st.booleans())
def test_no_body_raises_anything_but_a_refusal(body: bytes, cut: bool) -> None:
    try:
        facts = read_request(body, {"content-length": "9" * 30}, cut=cut)
    except BadRequest:
        return
    assert facts.session


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\\udfff x"'])
def test_half_a_character_is_read_or_refused(text: bytes) -> None:
    for body in (b'{"model":' + text + b"}", b'{"model":"a","user":' + text + b"}", b'{"model":"a","messages":[{"role":"user","content":' + text + b"}]}"):
        try:
            assert read_request(body, {}).session
        except BadRequest as error:
            assert error.reason is DecisionReason.MALFORMED_BODY  # noqa: PT017 - either is an answer


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}', b'{"model":"a","model":"a"}', b'{"model":"a","\\u006dodel":"a"}', b'{"model":"a","x":1,"x":1}',
        b'{"x":{},"model":"a","x":{"model":"b"}}', b'{"messages":[],"model":"a","messages":[{"content":"other"}]}',
    ],
)  # fmt: skip
def test_a_field_given_twice_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        read_request(body, {}, "a")
    assert refused.value.reason is DecisionReason.MODEL_MISMATCH


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b'"model"', b"{", b'{"model":"a"}x', b'{"model":1}', b'{"model":""}', b'{"model":null}', b'{"messages":[]}', b'{"model":"\xff"}',
        b'{"model":"a","messages":{}}', b'{"model":"a","messages":[{"content":7}]}', b'{"model":"a","max_tokens":-1}', b'{"model":"a","stream":"yes"}',
        b'{"model":"a","x":' + b"[" * 100_000, b'{"model":"a","messages":[{"content":' + b"[" * 5000 + b"]" * 5000 + b"}]}",
        b'{"' + b"k" * 300 + b'":1,"model":"a"}', b"{" + b",".join(b'"%d":1' % n for n in range(300)) + b',"model":"a"}',
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_malformed_and_the_message_never_quotes_it(body: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        read_request(body, {})
    assert refused.value.reason is DecisionReason.MALFORMED_BODY
    assert len(refused.value.message) < 200


def test_facts() -> None:
    body = {
        "messages": [{"role": "system", "content": "é" * 10},
                     {"role": "user", "content": [{"type": "text", "text": "abcd"}, {"type": "image_url", "image_url": {}}]},
                     {"role": "assistant", "content": None, "tool_calls": []}],
        "tools": [{"type": "function"}], "tool_choice": "auto", "response_format": {"type": "json_schema"}, "max_tokens": 5, "max_completion_tokens": 9,
        "stream": True, "stream_options": {"include_usage": True}, "user": "u-1", "model": "m",
    }  # fmt: skip
    facts = read_request(json.dumps(body).encode(), {})
    assert (facts.input_tokens, facts.output_tokens, facts.messages) == (-(-(20 + 4 + 22) // 4), 9, 3)
    assert (facts.tools, facts.json_mode, facts.vision, facts.stream, facts.include_usage, facts.session) == (True, True, True, True, True, "u:u-1")
    plain = read_request(b'{"model":"m","tools":[],"response_format":{"type":"text"},"stream":null,"max_tokens":null}', {})
    assert (plain.tools, plain.json_mode, plain.vision, plain.stream, plain.output_tokens) == (False, False, False, False, 0)


def test_very_many_messages_are_measured_and_not_read_one_by_one() -> None:
    few, many = ([{"role": "user", "content": "hi"}] * n for n in (19_000, 21_000))
    assert read_request(json.dumps({"model": "m", "messages": few}).encode(), {}).input_tokens == 19_000 * 2 // 4
    body = json.dumps({"messages": many, "model": "m", "tools": [1], "max_tokens": 7, "stream": True}).encode()
    facts = read_request(body, {}, "m")
    assert (facts.messages, facts.input_tokens, facts.tools, facts.output_tokens, facts.stream, facts.vision) == (
        21_000, -(-(len(json.dumps(many)) + 3) // 4), True, 7, True, False,
    )  # fmt: skip
    assert body[slice(*facts.model_span)] == b'"m"'
    assert facts.session == read_request(json.dumps({"model": "m", "messages": [*many, {}]}).encode(), {}).session
    assert read_request(json.dumps({"model": "m", "messages": [*many, 5]}).encode(), {}).messages == 21_000
    with pytest.raises(BadRequest):
        read_request(json.dumps({"model": "m", "messages": [5]}).encode(), {})


@pytest.mark.parametrize(("part", "vision"), [({"type": "image_url"}, True), ({"type": "input_image"}, True), ({"type": "text", "text": 'say "image"'}, False)])
def test_an_image_is_seen_where_messages_are_not_read_one_by_one_and_a_text_about_one_is_none(part: dict[str, str], vision: bool) -> None:
    body = json.dumps({"model": "m", "messages": [{"content": [part] * 21_000}]}).encode()
    assert read_request(body, {}).vision is vision
    assert read_request(body[:-50], {}, "m", cut=True).vision is vision


def test_a_session_is_the_hint_then_the_user_then_how_the_conversation_began() -> None:
    def session(headers: dict[str, str], *messages: str, **more: str) -> str:
        turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(messages)]
        return read_request(json.dumps({"model": "m", "messages": turns, **more}).encode(), headers).session

    assert session({"x-modelfleet-session": "s"}, "hi", user="u") == "h:s"
    assert session({}, "hi", user="u") == "u:u"
    assert session({}, "hi") == session({}, "hi", "hello", "and then?") != session({}, "hey")
