"""How many tokens a prompt can be at most, told from its bytes alone.

A byte-level tokenizer never makes more tokens than there are bytes; the chat template adds a few per message and a few per call. A tokenizer that first
rewrites text into more bytes is outside of this bound. Counting exactly is the model server's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

__all__ = ["LONGEST_TOKEN_BYTES", "PER_CALL", "PER_MESSAGE", "Content", "prompt_bound", "text_bytes"]

PER_MESSAGE = 16
"""Tokens that a chat template puts around one message."""
PER_CALL = 64
"""Tokens that a chat template puts around all of them: a default system text, a date, the start of the answer."""
LONGEST_TOKEN_BYTES = 128
"""No token stands for more: the longest in common vocabularies are runs of 128 spaces."""


class Content(Protocol):
    """One message, as far as its size goes."""

    @property
    def content(self) -> str:
        """Its text."""
        ...


def prompt_bound(messages: Iterable[Content], schema_text: str | None = None) -> int:
    """The most prompt tokens of a call with these messages and this output schema (JSON text)."""
    return PER_CALL + sum(PER_MESSAGE + text_bytes(message.content) for message in messages) + (text_bytes(schema_text) if schema_text else 0)


def text_bytes(text: str) -> int:
    """Bytes of a text as UTF-8; half a surrogate pair counts as the three bytes of what replaces it."""
    return len(text.encode("utf-8", "surrogatepass"))
