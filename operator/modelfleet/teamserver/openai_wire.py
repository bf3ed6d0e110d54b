"""A chat completion as an OpenAI client sends it -> a task and its limits, or why it is refused.

Decided here: which fields are applied, which pass since they ask for nothing, and which are refused by name; that a client may only tighten a team's limits.
Pure: bytes in, values out. Not decided here: whether the team exists, or what a run costs.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from modelfleet.api.v1alpha1.common import parse_money
from modelfleet.core.teams.schema import MAX_BYTES, canonical, check_schema
from modelfleet.core.teams.strategies.protocol import Task

__all__ = ["ChatRequest", "Refusal", "read_chat"]

MAX_MESSAGES: Final = 2048
_JSON_OBJECT: Final = canonical({"type": "object"})

_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "modalities": (["text"],),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
}
"""Values of refused fields that ask for nothing. Null passes everywhere."""
_PLAIN_MESSAGE: Final = frozenset(("role", "content", "name"))
_ROLES: Final = ("system", "developer", "user", "assistant")


class Refusal(Exception):
    """A request that starts no run. ``status``: HTTP; ``code``, ``param``: as in OpenAI's errors; ``retry_after`` in seconds."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One readable request. ``model`` as the client wrote it. ``fingerprint``: digest of the whole body, equal for equal requests."""

    model: str
    task: Task
    fingerprint: str
    stream: bool = False
    include_usage: bool = False
    max_cost_micro_usd: int | None = None
    deadline_seconds: float | None = None


def read_chat(body: bytes) -> ChatRequest:
    """The request in a body. Raises Refusal with status 400."""
    fields = _object(body)
    for name in sorted(fields):
        _check_known(name, fields[name])
    present = {name: value for name, value in fields.items() if value is not None}
    stream = _boolean(present, "stream")
    texts, question = _messages(present.get("messages"))
    tighter = _tighter(present.get("modelfleet", {}))
    return ChatRequest(
        model=_text(present, "model"),
        task=Task(
            question=question,
            context=texts,
            max_tokens=_max_tokens(present),
            response_schema=_schema(present.get("response_format")),
            temperature=_factor(present, "temperature", 2),
            top_p=_factor(present, "top_p", 1),
            seed=_seed(present.get("seed")),
            stop=_stop(present.get("stop")),
        ),
        fingerprint=_fingerprint(fields),
        stream=stream,
        include_usage=_include_usage(present, stream=stream),
        max_cost_micro_usd=tighter[0],
        deadline_seconds=tighter[1],
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise Refusal(400, "invalid_json", f"the body is not JSON that can be read: {error}") from None
    if not isinstance(fields, dict):
        raise Refusal(400, "invalid_type", "the body must be a JSON object")
    return fields


def _fingerprint(fields: Mapping[str, Any]) -> str:
    try:
        return hashlib.sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()
    except orjson.JSONEncodeError:
        raise Refusal(400, "invalid_json", "the body is nested too deep") from None


# --- fields that ask for nothing, and fields that are refused ---


def _check_known(name: str, value: Any) -> None:
    if value is None or name in _APPLIED:
        if value is not None:
            _APPLIED[name](name, value)
        return
    if name in _NEUTRAL and any(type(value) is type(neutral) and value == neutral for neutral in (*_NEUTRAL[name], *_floats(name))):
        return
    raise Refusal(400, "unsupported_parameter", f"{name}: a team does not take this parameter; leave it out", name)


def _floats(name: str) -> tuple[float, ...]:
    return tuple(float(value) for value in _NEUTRAL[name] if type(value) is int)


def _any(_name: str, _value: Any) -> None:
    """Read by a function of its own."""


def _user(name: str, value: Any) -> None:
    if not isinstance(value, str) or len(value) > 512:
        raise _wrong(name, "a string of at most 512 characters")


def _metadata(name: str, value: Any) -> None:
    if not isinstance(value, dict) or len(value) > 16 or not all(isinstance(text, str) and len(text) <= 512 for text in value.values()):
        raise _wrong(name, "an object of at most 16 strings")


_APPLIED: Final[Mapping[str, Callable[[str, Any], None]]] = {
    "model": _any,
    "messages": _any,
    "stream": _any,
    "stream_options": _any,
    "max_tokens": _any,
    "max_completion_tokens": _any,
    "response_format": _any,
    "temperature": _any,
    "top_p": _any,
    "seed": _any,
    "stop": _any,
    "user": _user,
    "metadata": _metadata,
    "modelfleet": _any,
}


# --- messages ---


def _messages(value: Any) -> tuple[tuple[str, ...], str]:
    """The texts before the last message, and the last one, which is the question."""
    if not isinstance(value, list) or not value:
        raise _wrong("messages", "a list of at least one message")
    if len(value) > MAX_MESSAGES:
        raise _wrong("messages", f"a list of at most {MAX_MESSAGES} messages")
    texts = [_message(message, f"messages[{i}]") for i, message in enumerate(value)]
    last = len(value) - 1
    if value[last]["role"] != "user":
        raise Refusal(400, "invalid_value", "messages: the last message must be the user's, since it is the question", f"messages[{last}].role")
    if not texts[last].strip():
        raise Refusal(400, "invalid_value", "messages: the last message is empty", f"messages[{last}].content")
    return tuple(text for text in texts[:last] if text), texts[last]


def _message(message: Any, path: str) -> str:
    if not isinstance(message, dict):
        raise _wrong(path, "an object with role and content")
    if message.get("role") not in _ROLES:
        raise _wrong(f"{path}.role", f"one of {', '.join(_ROLES)}")
    for name in sorted(message):
        if name not in _PLAIN_MESSAGE and message[name] not in (None, []):
            raise Refusal(400, "unsupported_parameter", f"{path}.{name}: a team reads text messages only", f"{path}.{name}")
    return _content(message.get("content"), f"{path}.content")


def _content(content: Any, path: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise _wrong(path, "a string or a list of text parts")
    return "".join(_part(part, f"{path}[{i}]") for i, part in enumerate(content))


def _part(part: Any, path: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise Refusal(400, "unsupported_parameter", f"{path}: a team reads text parts only", path)
    return _text(part, "text", f"{path}.text")


# --- limits ---


def _max_tokens(fields: Mapping[str, Any]) -> int | None:
    limits = [_positive(fields[name], name) for name in ("max_tokens", "max_completion_tokens") if name in fields]
    return min(limits) if limits else None


def _tighter(block: Any) -> tuple[int | None, float | None]:
    """Micro-dollars and seconds of the ``modelfleet`` block."""
    if not isinstance(block, dict):
        raise _wrong("modelfleet", "an object")
    unknown = sorted(name for name in block if block[name] is not None and name not in ("max_cost", "deadline_ms"))
    if unknown:
        raise Refusal(400, "unsupported_parameter", f"modelfleet.{unknown[0]}: unknown; there are max_cost and deadline_ms", f"modelfleet.{unknown[0]}")
    cost, deadline = block.get("max_cost"), block.get("deadline_ms")
    return None if cost is None else _money(cost), None if deadline is None else _positive(deadline, "modelfleet.deadline_ms") / 1000


def _money(value: Any) -> int:
    try:
        if isinstance(value, str):
            return parse_money(value)
    except ValueError:
        pass
    raise _wrong("modelfleet.max_cost", 'dollars as a decimal string, such as "0.05"')


def _schema(value: Any) -> str | None:
    """Canonical text of the schema that ``response_format`` asks for."""
    if value is None:
        return None
    match value:
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return _JSON_OBJECT
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            # what is beyond all measure is not looked at closely: each of its faults would be written down before most are cut
            faults = check_schema(schema) if _size(schema) <= 4 * MAX_BYTES else [f"$: more than {MAX_BYTES} bytes"]
            if faults:
                raise Refusal(400, "invalid_value", f"response_format.json_schema.schema: {'; '.join(faults)}", "response_format.json_schema.schema")
            return canonical(schema)
        case _:
            raise _wrong("response_format", "of type text, json_object, or json_schema with a schema")


def _size(value: Any) -> int:
    """Bytes of a value as JSON; endless for one nested so deep that it cannot be written."""
    try:
        return len(orjson.dumps(value))
    except orjson.JSONEncodeError:
        return sys.maxsize


def _factor(fields: Mapping[str, Any], name: str, most: int) -> str | None:
    """A sampling figure as decimal text, so that no float enters a plan."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise _wrong(name, f"a number from 0 to {most}")
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _seed(value: Any) -> int | None:
    if value is not None and (type(value) is not int or not -(2**63) <= value < 2**63):
        raise _wrong("seed", "a whole number of 64 bits")
    return value


def _stop(value: Any) -> tuple[str, ...]:
    """At most four texts; an empty one would end every answer at once."""
    texts = [value] if isinstance(value, str) else ([] if value is None else value)
    if not isinstance(texts, list) or len(texts) > 4 or not all(isinstance(text, str) and 0 < len(text) <= 256 for text in texts):
        raise _wrong("stop", "a string, or a list of at most 4, of 1 to 256 characters each")
    return tuple(texts)


def _include_usage(fields: Mapping[str, Any], *, stream: bool) -> bool:
    options = fields.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict) or not stream:
        raise _wrong("stream_options", "an object, and stream must be true")
    unknown = sorted(name for name in options if name != "include_usage" and options[name] not in (None, False))
    if unknown:
        raise Refusal(400, "unsupported_parameter", f"stream_options.{unknown[0]}: unknown; there is include_usage", f"stream_options.{unknown[0]}")
    return _boolean({"include_usage": options.get("include_usage") or False}, "include_usage", "stream_options.include_usage")


def _boolean(fields: Mapping[str, Any], name: str, path: str | None = None) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise _wrong(path or name, "true or false")
    return value


def _text(fields: Mapping[str, Any], name: str, path: str | None = None) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise _wrong(path or name, "a string")
    return value


def _positive(value: Any, path: str) -> int:
    if type(value) is not int or value < 1:
        raise _wrong(path, "a whole number, 1 or more")
    return value


def _wrong(path: str, wanted: str) -> Refusal:
    return Refusal(400, "invalid_value", f"{path}: must be {wanted}", path)
