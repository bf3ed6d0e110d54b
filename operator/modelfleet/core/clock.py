"""The moment of a plan, and how long what was decided at it holds.

Whatever asks a Clock instead of a datetime leaves a trace: the span of moments at which every answer would have been the same. A decision whose other
inputs are unchanged is decided the same at any moment of its span (docs/adr/0014-a-plan-remembers-the-last-one.md). One Clock per thing decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

__all__ = ["ALWAYS", "Clock", "Span"]

_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Span:
    """Moments from ``since`` (included) until ``until`` (not included)."""

    since: datetime = _FIRST
    until: datetime = _LAST

    def holds(self, moment: datetime) -> bool:
        """True for a moment of the span."""
        return self.since <= moment < self.until


ALWAYS = Span()


class Clock:
    """Answers from one moment, which it never shows with more than whole seconds."""

    __slots__ = ("_now", "_since", "_until")

    def __init__(self, now: datetime) -> None:
        """``now`` has a time zone."""
        self._now, self._since, self._until = now, _FIRST, _LAST

    def reached(self, moment: datetime) -> bool:
        """True from that moment on."""
        if self._now >= moment:
            self._since = max(self._since, moment)
            return True
        self._until = min(self._until, moment)
        return False

    def second(self) -> datetime:
        """The whole second that is now: what is written down."""
        second = self._now.replace(microsecond=0)
        self._since, self._until = max(self._since, second), min(self._until, second + _SECOND)
        return second

    @property
    def span(self) -> Span:
        """When everything asked so far would have been answered the same."""
        return Span(self._since, self._until) if self._since is not _FIRST or self._until is not _LAST else ALWAYS
