"""Server-sent events out of bytes as they come: pieces may end anywhere, lines end in any of the three ways, comments and other fields are passed over.

Not decided here: what an event means. An event that grows beyond a mebibyte is none; it raises.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["LONGEST", "SseParser", "TooLongEvent"]

LONGEST: Final = 1_048_576
"""Bytes of one event's data, an unfinished line included."""

_END = re.compile(rb"\r\n|\n|\r")
_MARK = b"\xef\xbb\xbf"


class TooLongEvent(Exception):
    """An event beyond ``LONGEST``."""


class SseParser:
    """One stream. Feed it what arrives; it gives the data of each event that is complete."""

    def __init__(self) -> None:
        self._tail = bytearray()
        self._data: list[bytes] = []
        self._held = 0
        self._after_return = False
        self._first = True

    def feed(self, chunk: bytes) -> list[str]:
        """Data of the events that end in this piece. Raises TooLongEvent."""
        if not chunk:
            return []
        returned, self._after_return = self._after_return, chunk.endswith(b"\r")
        chunk = chunk.removeprefix(b"\n") if returned else chunk
        first, *rest = _END.split(chunk) if b"\r" in chunk else chunk.split(b"\n")
        self._tail += first
        events: list[str] = []
        if rest:
            lines = [bytes(self._tail), *rest[:-1]]
            self._tail = bytearray(rest[-1])
            events = [event for line in lines if (event := self._line(line)) is not None]
        if len(self._tail) + self._held > LONGEST:
            raise TooLongEvent
        return events

    def _line(self, line: bytes) -> str | None:
        """Takes in one line; the data of the event that it ends."""
        if self._first:
            self._first = False
            line = line.removeprefix(_MARK)
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
                self._held += len(value) + 1
            return None
        data, self._data, self._held = self._data, [], 0
        return b"\n".join(data).decode("utf-8", "replace") if data else None
