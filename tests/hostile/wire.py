"""Words that hostile requests are written with: a good body, raw HTTP, and what may become of a request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

MARK = "f0rged"
"""In every forged value: whoever finds it beyond the gateway has found a leak."""

GOOD: Mapping[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
CHAT = "/v1/chat/completions"

Meant = Literal["any", "good", "refused", "framing"]
"""good: a plain request under false flags, served as if they were not there. refused: never served. framing: not HTTP as the RFC has it, so that
the gateway may hang up on it. any: a 2xx or a 4xx that explains itself."""

Made = tuple[Meant, bytes, bool]


def http(
    body: bytes,
    *,
    headers: list[bytes] | None = None,
    method: bytes = b"POST",
    path: bytes = CHAT.encode(),
    version: bytes = b"HTTP/1.1",
    framing: bytes | None = None,
) -> bytes:
    """A request as bytes; ``framing`` replaces the length."""
    length = b"content-length: %d" % len(body) if framing is None else framing
    lines = [b"%s %s %s" % (method, path, version), *(headers if headers is not None else [b"host: gateway", b"content-type: application/json"])]
    lines += [line for line in (length, b"connection: close") if line]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def dumps(body: Any) -> bytes:
    return json.dumps(body).encode()


def plain(*extra: bytes) -> list[bytes]:
    return [b"host: gateway", b"content-type: application/json", *extra]
