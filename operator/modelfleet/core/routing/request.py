"""One request's body and headers -> the few facts a decision may depend on.

Decided here: whether a body can be read at all, and what it asks for (size, tools, JSON, images, its session). Not decided: which
model answers (``decide.py``). Only the needed fields are decoded and nothing of the prompt is kept but a hash. Parsing is bounded
in depth, keys and objects, so that no client can make the decider late and thereby switch it off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Annotated, Any, TypeVar

import msgspec

from modelfleet.api.conditions import DecisionReason

from .bound import CallBound, call_bound

__all__ = ["HIDDEN_HEADERS", "SESSION_HEADER", "BadRequest", "RequestFacts", "read_request"]

SESSION_HEADER = "x-modelfleet-session"
HIDDEN_HEADERS = frozenset(("api-key", "authorization", "cookie", "proxy-authorization", "x-api-key"))
"""Never shown to the decider: they are keys."""
BYTES_PER_TOKEN = 4
"""Bytes of text per input token, until a pool's own ratio is learned (docs/architecture.md)."""

_MAX_KEYS = 256
_MAX_KEY = 256
_MAX_OBJECTS = 20_000
"""Objects and lists of ``messages`` that are read one by one: ten milliseconds of a core, during which no other request is decided."""
_HASHED = 4096
_SPACE = re.compile(rb"[ \t\r\n]*")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NOTHING = frozenset((b"null", b"[]", b"{}", b'""'))

_UNREADABLE = (msgspec.MsgspecError, RecursionError, ValueError)
"""All that a decoder raises: whatever else a body could raise would look like a lost decider, and be the client's choice."""

T = TypeVar("T")


class _Part(msgspec.Struct):
    type: str = ""
    text: str | None = None


class _Message(msgspec.Struct):
    role: str = ""
    content: str | list[_Part] | None = None


class _ResponseFormat(msgspec.Struct):
    type: str = ""


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


_TOP = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_FLAG = msgspec.json.Decoder(bool | None)
_COUNT = msgspec.json.Decoder(Annotated[int, msgspec.Meta(ge=0)] | None)
_MESSAGES = msgspec.json.Decoder(list[_Message] | None)
_FORMAT = msgspec.json.Decoder(_ResponseFormat | None)
_OPTIONS = msgspec.json.Decoder(_StreamOptions | None)


class BadRequest(Exception):
    """The body cannot be decided upon; the client is told ``message`` with status 400. It never quotes the body."""

    def __init__(self, reason: DecisionReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What a decision may depend on. Tokens are estimates.

    ``model_span``: where the top-level model's value lies in the body, quotes included, end exclusive. ``output_tokens``: what the client
    allows at most (0: it does not say). ``body_cut``: only the head was seen, so the flags are a guess on the safe side. ``bound``: not an estimate, and
    only there if asked for.
    """

    model: str
    headers: Mapping[str, str] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    messages: int = 0
    tools: bool = False
    json_mode: bool = False
    vision: bool = False
    stream: bool = False
    include_usage: bool = False
    session: str = ""
    model_span: tuple[int, int] = (0, 0)
    body_cut: bool = False
    bound: CallBound | None = None


def read_request(body: bytes, headers: Mapping[str, str], lifted_model: str | None = None, *, cut: bool = False, bounded: bool = False) -> RequestFacts:
    """Facts of one request; ``lifted_model`` is the name Envoy routed by; ``bounded``: with the most it can cost.

    Raises BadRequest (MalformedBody, ModelMismatch).
    """
    if cut:
        return _facts_of_head(body, headers, lifted_model or "")
    fields, spans = _top_level(body)
    model = _decode(_TEXT, fields, "model", "")
    if not model:
        raise BadRequest(DecisionReason.MALFORMED_BODY, "the body has no model")
    if lifted_model is not None and lifted_model != model:
        raise BadRequest(DecisionReason.MODEL_MISMATCH, "the body's model is not the one the gateway read: write it once, as a plain string")
    read = _read_messages(fields)
    other_text = sum(len(memoryview(fields[key])) for key in ("tools", "functions", "prompt", "input") if key in fields)
    wanted = _decode(_COUNT, fields, "max_completion_tokens", None) or _decode(_COUNT, fields, "max_tokens", None) or 0
    output_format = _decode(_FORMAT, fields, "response_format", None)
    options = _decode(_OPTIONS, fields, "stream_options", None)
    return RequestFacts(
        model=model,
        headers=headers,
        input_tokens=-(-(read.text_bytes + other_text) // BYTES_PER_TOKEN),
        output_tokens=wanted,
        messages=read.count,
        tools=_given(fields, "tools") or _given(fields, "functions"),
        json_mode=output_format is not None and output_format.type.startswith("json"),
        vision=read.vision,
        stream=bool(_decode(_FLAG, fields, "stream", None)),
        include_usage=bool(options and options.include_usage),
        session=_session(headers, fields, read.beginning),
        model_span=spans["model"],
        bound=call_bound(fields) if bounded else None,
    )


def _top_level(body: bytes) -> tuple[dict[str, msgspec.Raw], dict[str, tuple[int, int]]]:
    """The top-level fields, each as raw JSON, and where each value lies. A key given twice has two meanings and is refused."""
    try:
        fields = _TOP.decode(body)
    except _UNREADABLE as error:
        raise BadRequest(DecisionReason.MALFORMED_BODY, f"the body is not a JSON object: {error}") from None
    if len(fields) > _MAX_KEYS or any(len(key) > _MAX_KEY for key in fields):
        raise BadRequest(DecisionReason.MALFORMED_BODY, f"the body has more than {_MAX_KEYS} fields, or a name longer than {_MAX_KEY} characters")
    return fields, _spans(body, fields)


def _spans(body: bytes, fields: Mapping[str, msgspec.Raw]) -> dict[str, tuple[int, int]]:
    """Walks the keys in step with the decoder's answer: a repeated key makes the two fall out of step."""
    spans: dict[str, tuple[int, int]] = {}
    at = _skip(body, 0) + 1
    for key, raw in fields.items():
        name = _STRING.match(body, _skip(body, at))
        if name is None or _TEXT.decode(name.group()) != key:
            raise _repeated()
        start = _skip(body, _skip(body, name.end()) + 1)
        value = memoryview(raw)
        end = start + len(value)
        if body[start:end] != value:
            raise _repeated()
        spans[key] = (start, end)
        at = _skip(body, end) + 1
    if fields and body[at - 1 : at] != b"}":
        raise _repeated()
    return spans


def _repeated() -> BadRequest:
    return BadRequest(DecisionReason.MODEL_MISMATCH, "the body gives a field twice: write each field once")


def _skip(body: bytes, at: int) -> int:
    found = _SPACE.match(body, at)
    return found.end() if found else at


def _decode(decoder: msgspec.json.Decoder[T], fields: Mapping[str, msgspec.Raw], key: str, absent: T) -> T:
    raw = fields.get(key)
    if raw is None:
        return absent
    try:
        return decoder.decode(raw)
    except _UNREADABLE as error:
        raise BadRequest(DecisionReason.MALFORMED_BODY, f"{key}: {error}") from None


def _given(fields: Mapping[str, msgspec.Raw], key: str) -> bool:
    raw = fields.get(key)
    return raw is not None and bytes(memoryview(raw)[:8]).strip() not in _NOTHING


@dataclass(frozen=True, slots=True)
class _Messages:
    """What is known of ``messages``. ``beginning``: digest of how the conversation began."""

    count: int
    text_bytes: int
    vision: bool
    beginning: str


def _read_messages(fields: Mapping[str, msgspec.Raw]) -> _Messages:
    """Sizes, and whether an image is among the parts. Of very many messages only the length is taken, and the words that may mean an image."""
    raw = bytes(fields.get("messages", b"null"))
    if raw.count(b"{") + raw.count(b"[") > _MAX_OBJECTS:
        digest = blake2b(raw[:_HASHED], digest_size=8).hexdigest()
        return _Messages(raw.count(b'"role"'), len(raw), _may_show_an_image(raw), digest)
    messages = _decode(_MESSAGES, fields, "messages", None) or []
    total, vision = 0, False
    for message in messages:
        if isinstance(message.content, str):
            total += _size(message.content)
        elif message.content is not None:
            for part in message.content:
                total += _size(part.text or "")
                vision = vision or "image" in part.type
    return _Messages(len(messages), total, vision, _beginning(fields, messages))


def _may_show_an_image(raw: bytes) -> bool:
    """Whether a JSON string begins as the type of an image does; inside a text the quotation mark would be escaped."""
    return any(raw.count(b'"' + word) > raw.count(b'\\"' + word) for word in (b"image", b"input_image"))


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _session(headers: Mapping[str, str], fields: Mapping[str, Any], beginning: str) -> str:
    """What keeps a conversation on one model: the client's hint, its user, or how the conversation began."""
    hint = headers.get(SESSION_HEADER)
    if hint:
        return f"h:{hint}"
    user = fields.get("user")
    if user is not None and bytes(memoryview(user)[:1]) == b'"':
        return f"u:{_decode(_TEXT, fields, 'user', '')}"
    return f"m:{beginning}"


def _beginning(fields: Mapping[str, Any], messages: list[_Message]) -> str:
    digest = blake2b(digest_size=8)
    for message in messages:
        digest.update(message.role[:_HASHED].encode(errors="surrogatepass"))
        for text in _texts(message):
            digest.update(text[:_HASHED].encode(errors="surrogatepass"))
        if message.role == "user":
            break
    for key in ("prompt", "input"):
        if key in fields:
            digest.update(memoryview(fields[key])[:_HASHED])
    return digest.hexdigest()


def _texts(message: _Message) -> list[str]:
    if isinstance(message.content, str):
        return [message.content]
    return [part.text or "" for part in message.content or ()]


def _facts_of_head(head: bytes, headers: Mapping[str, str], model: str) -> RequestFacts:
    """What can be said of a body whose end was not seen: its declared length, and words that may mean a need. Unsure counts as yes."""
    length = headers.get("content-length", "")
    size = max(len(head), int(length) if length.isascii() and length.isdigit() and len(length) < 12 else 0)
    hint = headers.get(SESSION_HEADER)
    return RequestFacts(
        model=model,
        headers=headers,
        input_tokens=-(-size // BYTES_PER_TOKEN),
        tools=b'"tools"' in head or b'"functions"' in head,
        json_mode=b'"response_format"' in head,
        vision=_may_show_an_image(head),
        session=f"h:{hint}" if hint else f"m:{blake2b(head[:_HASHED], digest_size=8).hexdigest()}",
        body_cut=True,
    )
