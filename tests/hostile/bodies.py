"""Hostile bodies: no JSON, no object, wrong types, out of range, twice, deep, huge."""

from __future__ import annotations

import random
from typing import Any

from tests.hostile.wire import GOOD, Made, dumps, http, plain

NOT_JSON = (
    b"", b" ", b"hello", b"{", b"}", b"{]", b'{"model"', b'{"model":}', b'{"model":"auto",}', b"{'model': 'auto'}", b"model=auto&x=1", b"\xff\xfe{\x00}\x00",
    b"\x00" * 64, b'{"model": NaN}', b'{"model": "auto"} trailing', b'{"model": "auto"}{"model": "auto"}', b'// c\n{"model": "auto"}',
    b'\xef\xbb\xbf{"model": "auto"}', b'{"model": "au\xff\xfeto"}', b'{"model": "\x01"}', b'{"model": "auto", "messages": [1', b"<xml/>", b'{"a": 1e999999}',
    b'{"model": "\\ud800"}', b'{"model": "\\x41uto"}', b"\x1f\x8b\x08\x00",
)  # fmt: skip
NOT_AN_OBJECT = (b"null", b"[]", b"1", b'"auto"', b"true", b'[{"model": "auto"}]', b"-0", b"[[[[]]]]", b'["model", "auto"]')
WRONG = (
    None, True, False, 0, 7, -1, -(2**63), 2**63, 2**70, 1.5, -0.0, 1e300, "", "text", "1", "-1", "NaN", "\u0000", "\u202e", "💥" * 100, [], ["x"], [None],
    [[]], [{}], {}, {"x": 1}, {"model": "auto"}, {"type": "json_object"}, {"type": 7}, {"include_usage": "yes"}, {"type": "image_url"},
)  # fmt: skip
FIELDS = (
    "model", "messages", "max_tokens", "max_completion_tokens", "tools", "functions", "stream", "stream_options", "response_format", "temperature", "top_p",
    "n", "stop", "user", "metadata", "tool_choice", "logit_bias", "seed", "prompt", "input", "store", "nope", "__proto__", "", "messages ", "MODEL",
)  # fmt: skip
MODELS = (
    "nope", "AUTO", "auto ", " auto", "auto\u0000", "auto\n", "aut\u043e", "*", "", "a" * 5000, "../auto", "/", "demo/readers", "pool:demo/small",
    "policy:demo/assistant", "pool:", "_malformed", "_missing", "small-model", "small", "auto;drop", "auto,small", '"auto"',
    "auto\r\nx-modelfleet-caller: root", "${jndi:ldap://x}", "null", "💥",
)  # fmt: skip


def garbage(chance: random.Random) -> Made:
    body = chance.choice((*NOT_JSON, chance.randbytes(chance.choice((1, 30, 3000)))))
    return "refused", http(body, headers=plain()), False


def cut_short(chance: random.Random) -> Made:
    whole = dumps(GOOD)
    at = chance.randrange(1, len(whole) - 1)
    broken = chance.choice((whole[:at], whole[:at] + bytes([chance.randrange(256)]) + whole[at:], whole[:at] + whole[at + 1 :]))
    return "any", http(broken), False


def no_object(chance: random.Random) -> Made:
    return "refused", http(chance.choice(NOT_AN_OBJECT)), False


def wrong_types(chance: random.Random) -> Made:
    body: dict[str, Any] = dict(GOOD)
    for _ in range(chance.choice((1, 1, 2, 4))):
        body[chance.choice(FIELDS)] = chance.choice(WRONG)
    return "any", http(dumps(body)), False


def wrong_messages(chance: random.Random) -> Made:
    message: dict[str, Any] = {"role": "user", "content": "hello"}
    for _ in range(chance.choice((1, 2))):
        message[chance.choice(("role", "content", "name", "tool_calls", "tool_call_id", "nope"))] = chance.choice(WRONG)
    parts = [{chance.choice(("type", "text", "image_url", "nope")): chance.choice(WRONG)} for _ in range(chance.choice((1, 3)))]
    messages = chance.choice(([message], [message] * 300, [{**message, "content": parts}], [chance.choice(WRONG)], [message, chance.choice(WRONG)]))
    return "any", http(dumps({**GOOD, "messages": messages})), False


def other_models(chance: random.Random) -> Made:
    model = chance.choice(MODELS)
    return "refused", http(dumps({**GOOD, "model": model})), False


def out_of_range(chance: random.Random) -> Made:
    numbers = (-1, -(2**31), -(2**63), -(10**40), -1.5)
    field = chance.choice(("max_tokens", "max_completion_tokens"))
    return "refused", http(dumps({**GOOD, field: chance.choice(numbers)})), False


def twice(chance: random.Random) -> Made:
    key = chance.choice(('"model"', '"mod\\u0065l"', '"messages"', '"stream"', '"max_tokens"'))
    first, second = chance.choice((('"auto"', '"nope"'), ('"nope"', '"auto"'), ("[]", "null"), ("1", "-1")))
    text = f'{{"model": "auto", {key}: {first}, "messages": [{{"role": "user", "content": "hello"}}], {key}: {second}}}'
    return "refused", http(text.encode()), False


def deep(chance: random.Random) -> Made:
    levels = chance.choice((100, 1000, 20_000, 100_000))
    opened, closed = chance.choice((("[", "]"), ('{"a":', "}")))
    inside = opened * levels + ("1" if opened != "[" else "") + closed * chance.choice((levels, levels - 1, 0))
    where = chance.choice(("messages", "metadata", "tools", "nope", "content"))
    body = f'{{"model": "auto", "{where}": {inside}}}' if where != "content" else f'{{"model": "auto", "messages": [{{"role": "user", "content": {inside}}}]}}'
    return "any", http(body.encode()), False


def huge(chance: random.Random) -> Made:
    body: dict[str, Any] = {**GOOD}
    match chance.randrange(7):
        case 0:
            body |= {f"k{i}": i for i in range(300)}
        case 1:
            body["x" * 2000] = 1
        case 2:
            body["messages"] = [{"role": "user", "content": "x" * 300_000}]
        case 3:
            body["messages"] = [{}] * 25_000
        case 4:
            body["user"] = "u" * 100_000
        case 5:
            body["tools"] = [{"type": "function", "function": {"name": f"f{i}"}} for i in range(2000)]
        case _:
            body["max_tokens"] = 10**18
    return "any", http(dumps(body)), False
