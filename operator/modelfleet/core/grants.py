"""Grants: what a team's runtime allows one model call to do, signed so that the gateway needs to trust nobody.

A grant names the run, the call, where it may go, until when, and the most it may cost. HMAC-SHA-256 over the payload; several keys are accepted so that
they can be rotated, the first signs. The key and the time are arguments.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

__all__ = ["GRANT_HEADER", "LIFETIME", "Grant", "GrantError", "sign_grant", "verify_grant"]

GRANT_HEADER = "x-modelfleet-grant"
LIFETIME = 300
"""Seconds a grant is good for: longer than any clock differs, shorter than a leaked one is worth."""

_VERSION = "v1"
_LONGEST = 4096
_TEXTS = ("team", "run", "role", "call", "caller", "target")
_NUMBERS = ("expires", "max_cost_micro_usd")


@dataclass(frozen=True, slots=True)
class Grant:
    """One call's permission. ``target``: ``pool:<ns>/<name>`` or ``policy:<ns>/<name>``; ``expires``: Unix seconds; ``max_cost_micro_usd``: of the one call."""

    team: str
    run: str
    role: str
    call: str
    caller: str
    target: str
    expires: int
    max_cost_micro_usd: int


class GrantError(Exception):
    """A header that grants nothing; ``message`` says why in words that repeat nothing of it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def sign_grant(grant: Grant, key: bytes) -> str:
    """The header's value. Raises ValueError for an empty key."""
    if not key:
        raise ValueError("an empty key signs nothing")
    payload = _encode(json.dumps(asdict(grant), separators=(",", ":"), sort_keys=True).encode())
    return f"{_VERSION}.{payload}.{_encode(_mac(payload, key))}"


def verify_grant(header: str, keys: Sequence[bytes], now: float) -> Grant:
    """The grant of a header, if one of ``keys`` signed it and it has not expired at ``now`` (Unix seconds). Raises GrantError."""
    parts = header.split(".")
    if len(header) > _LONGEST or len(parts) != 3 or parts[0] != _VERSION:
        raise GrantError("the grant is not of a form this gateway knows")
    try:
        given = _decode(parts[2])
    except (binascii.Error, ValueError):
        raise GrantError("the grant is not of a form this gateway knows") from None
    if not any(hmac.compare_digest(given, _mac(parts[1], key)) for key in keys if key):
        raise GrantError("the grant is not signed by a key this gateway knows")
    grant = _read(parts[1])
    if grant.expires <= now:
        raise GrantError("the grant has expired")
    return grant


def _read(payload: str) -> Grant:
    try:
        fields = json.loads(_decode(payload))
        texts = {name: fields[name] for name in _TEXTS}
        numbers = {name: fields[name] for name in _NUMBERS}
    except (binascii.Error, ValueError, KeyError, TypeError):
        raise GrantError("the grant cannot be read") from None
    if not all(isinstance(v, str) for v in texts.values()) or not all(type(v) is int and v >= 0 for v in numbers.values()):
        raise GrantError("the grant cannot be read")
    return Grant(**texts, **numbers)


def _mac(payload: str, key: bytes) -> bytes:
    return hmac.new(key, f"{_VERSION}.{payload}".encode(), hashlib.sha256).digest()


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
