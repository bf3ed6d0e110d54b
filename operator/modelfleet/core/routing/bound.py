"""The most one call can cost, told from its body: what a grant is held against.

Decided here: the most prompt and answer tokens of a request, or why that cannot be said. The bound is the one the team runtime reserves by
(``core/teams/tokens.py``): the bytes of the text, some for each message and some for all; a byte-level tokenizer never makes more tokens than bytes. Only
fields whose tokens are bounded that way may be in such a call. Not decided here: what a token costs (``decide.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

__all__ = ["PER_CALL", "PER_MESSAGE", "CallBound", "call_bound"]

PER_MESSAGE: Final = 16
PER_CALL: Final = 64
"""Tokens that a chat template puts around one message, and around all; equal to the runtime's (a test compares them)."""

_FREE: Final = frozenset((
    "model", "messages", "max_tokens", "max_completion_tokens", "response_format", "n", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stream",
    "stream_options", "user", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "cache_prompt", "metadata", "store",
))  # fmt: skip
"""Fields that add no tokens to a prompt, or whose tokens are counted here."""

_MOST: Final = 1_000_000_000
"""No answer has more tokens; a number of thousands of digits could not even be told in a refusal."""


@dataclass(frozen=True, slots=True)
class CallBound:
    """At most so many tokens. ``unbounded``: why no such number exists, in words for the caller; the numbers mean nothing then."""

    input_tokens: int = 0
    output_tokens: int = 0
    unbounded: str = ""


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: str
    content: str
    name: str = ""


class _Schema(msgspec.Struct, forbid_unknown_fields=True):
    name: str = ""
    schema: msgspec.Raw = msgspec.Raw(b"")
    strict: bool | None = None


class _Format(msgspec.Struct, forbid_unknown_fields=True):
    type: str = ""
    json_schema: _Schema | None = None
    schema: msgspec.Raw = msgspec.Raw(b"")


_MESSAGES = msgspec.json.Decoder(list[_Message])
_FORMAT = msgspec.json.Decoder(_Format | None)
_COUNT = msgspec.json.Decoder(int | None)


def call_bound(fields: Mapping[str, msgspec.Raw]) -> CallBound:
    """The bound of a request with these top-level fields, each as raw JSON."""
    other = sorted(set(fields) - _FREE)
    if other:
        return CallBound(unbounded="a call with a grant may hold only fields whose cost is known; it holds others")
    try:
        given = [_COUNT.decode(fields[key]) for key in ("max_tokens", "max_completion_tokens") if key in fields]
        choices = (_COUNT.decode(fields["n"]) if "n" in fields else None) or 1
        messages = _MESSAGES.decode(fields.get("messages", b"[]"))
        schema = _schema_bytes(fields)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return CallBound(unbounded="messages with text alone, and whole numbers, are what the cost of a call with a grant is told from")
    limits = [limit for limit in given if limit is not None]
    if not limits or min(limits) < 1 or choices < 1 or max(*limits, choices) > _MOST:
        return CallBound(unbounded="a call with a grant needs max_tokens, a number that a model can have, else its cost has no bound")
    prompt = PER_CALL + schema + sum(PER_MESSAGE + _size(message.content) + _size(message.name) for message in messages)
    return CallBound(prompt, max(limits) * choices)


def _schema_bytes(fields: Mapping[str, msgspec.Raw]) -> int:
    """Bytes of the output schema as compact JSON; some servers put it into the prompt."""
    told = _FORMAT.decode(fields["response_format"]) if "response_format" in fields else None
    if told is None:
        return 0
    raw = [told.schema, *([told.json_schema.schema] if told.json_schema else [])]
    return sum(len(msgspec.json.encode(msgspec.json.decode(schema))) for schema in raw if bytes(schema))


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
