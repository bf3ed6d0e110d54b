"""What of an OpenAI request is applied, what passes since it asks for nothing, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelfleet.core.teams.strategies.protocol import Task
from modelfleet.teamserver.openai_wire import ChatRequest, Refusal, read_chat

ASK = {"role": "user", "content": "why?"}


def read(**fields: Any) -> ChatRequest:
    return read_chat(json.dumps({"model": "legal/review", "messages": [ASK], **fields}).encode())


def refused(**fields: Any) -> tuple[int, str, str | None]:
    with pytest.raises(Refusal) as caught:
        read(**fields)
    assert caught.value.message
    return caught.value.status, caught.value.code, caught.value.param


def test_the_last_message_is_the_question_and_what_was_before_is_context_in_order() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "document"}]},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [], "annotations": []},
        {"role": "assistant", "content": "noted", "name": "bob"},
        ASK,
    ]
    assert read(messages=messages).task == Task("why?", ("be brief", "a document", "noted"))


def test_what_is_applied() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    chat = read(
        stream=True, stream_options={"include_usage": True}, max_tokens=9, max_completion_tokens=7, temperature=0.25, top_p=1, seed=-3, stop=["x"],
        response_format={"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}, user="u", metadata={"k": "v"},
        modelfleet={"max_cost": "0.05", "deadline_ms": 1500},
    )  # fmt: skip
    assert chat.task == Task("why?", (), 7, '{"properties":{"a":{"type":"integer"}},"required":["a"],"type":"object"}', "0.25", "1", -3, ("x",))
    assert (chat.model, chat.stream, chat.include_usage, chat.max_cost_micro_usd, chat.deadline_seconds) == ("legal/review", True, True, 50_000, 1.5)
    assert read(stop="end").task.stop == ("end",)
    assert read(response_format={"type": "json_object"}).task.response_schema == '{"type":"object"}'
    assert read(response_format={"type": "text"}).task.response_schema is None


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("n", [1, 1.0]), ("tools", [[]]), ("tool_choice", ["none", "auto"]), ("functions", [[]]), ("logprobs", [False]), ("logit_bias", [{}]),
        ("presence_penalty", [0, 0.0]), ("frequency_penalty", [0]), ("modalities", [["text"]]), ("store", [False]), ("service_tier", ["auto"]),
    ],
)  # fmt: skip
def test_values_that_ask_for_nothing_pass(name: str, values: list[Any]) -> None:
    for value in [None, *values]:
        assert read(**{name: value}).task == Task("why?")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]), ("tool_choice", "required"), ("functions", [{}]), ("function_call", {"name": "f"}), ("n", 2), ("n", True),
        ("logprobs", True), ("logprobs", 0), ("top_logprobs", 2), ("logit_bias", {"5": 1}), ("presence_penalty", 0.1), ("frequency_penalty", -1),
        ("audio", {"voice": "x"}), ("modalities", ["text", "audio"]), ("prediction", {"type": "content"}), ("store", True), ("web_search_options", {}),
        ("parallel_tool_calls", False), ("reasoning_effort", "low"), ("no_such_field", 1),
    ],
)  # fmt: skip
def test_what_a_team_cannot_do_is_refused_by_name(name: str, value: Any) -> None:
    assert refused(**{name: value}) == (400, "unsupported_parameter", name)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [ASK] * 2049}, "messages"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "messages[0].content"),
        ({"messages": [ASK, {"role": "assistant", "content": "go on"}]}, "messages[1].role"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": True}, "max_completion_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"seed": 1.5}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"user": 5}, "user"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"} | {f"k{n}": n for n in range(9000)}}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "http://x"}}}}, "response_format.json_schema.schema"),
        ({"modelfleet": []}, "modelfleet"),
        ({"modelfleet": {"max_cost": 1}}, "modelfleet.max_cost"),
        ({"modelfleet": {"max_cost": "-1"}}, "modelfleet.max_cost"),
        ({"modelfleet": {"max_cost": "0.0000001"}}, "modelfleet.max_cost"),
        ({"modelfleet": {"deadline_ms": 0}}, "modelfleet.deadline_ms"),
    ],
)
def test_a_value_that_makes_no_sense_is_named_with_its_path(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields) == (400, "invalid_value", param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}, ASK]}, "messages[0].tool_calls"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"modelfleet": {"baseline": True}}, "modelfleet.baseline"),
    ],
)
def test_parts_that_a_team_cannot_read_are_refused_by_path(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields) == (400, "unsupported_parameter", param)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b'{"model":"\\ud800"}', b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"model": NaN}'],
    ids=["empty", "cut", "no UTF-8", "half a surrogate", "deep list", "deep object", "NaN"],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        read_chat(body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_depth_where_nothing_else_looks_is_refused() -> None:
    deep = b'{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":{"type":"text","x":' + b"[" * 500 + b"]" * 500 + b"}}"
    with pytest.raises(Refusal, match="nested too deep"):
        read_chat(deep)


def test_a_body_that_is_no_object_is_refused() -> None:
    for body in (b"[]", b"null", b"7", b'"x"'):
        with pytest.raises(Refusal, match="must be a JSON object"):
            read_chat(body)


def test_equal_requests_have_equal_fingerprints_however_they_are_spelled() -> None:
    one = read_chat(b'{"model":"m","messages":[{"role":"user","content":"x"}]}')
    two = read_chat(b'{ "messages": [{"content": "x", "role": "user"}], "model": "m" }')
    other = read_chat(b'{"model":"m","messages":[{"role":"user","content":"y"}]}')
    assert one.fingerprint == two.fingerprint != other.fingerprint
