"""When to try again: capped exponential backoff per key, spread by the key itself. Time is an argument; chance is a hash.

Decided here: how long a key that failed is left alone. What a key stands for, and what is retried, is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from zlib import crc32

__all__ = ["Backoff", "Retries"]

_SPREAD: Final = 0.2


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds after the first failure, the factor for each further one, and the most."""

    first: float = 1.0
    factor: float = 2.0
    most: float = 60.0

    def seconds(self, failures: int, key: str) -> float:
        """How long to leave ``key`` alone after its ``failures``-th failure in a row (from 1); never more than ``most``."""
        exponent = min(max(failures, 1) - 1, 32)  # beyond that any cap has long been reached, and floats overflow
        spread = 1.0 - _SPREAD * crc32(key.encode()) / 2**32
        return min(self.most, self.first * self.factor**exponent) * spread


@dataclass(slots=True)
class _Failed:
    failures: int
    due: float


class Retries:
    """The keys that failed and when each is due, in seconds of the caller's monotonic clock."""

    def __init__(self, backoff: Backoff = Backoff()) -> None:
        self._backoff = backoff
        self._failed: dict[str, _Failed] = {}

    def failed(self, key: str, now: float, at_least: float = 0.0) -> float:
        """Note a failure; returns the seconds until the key is due."""
        failures = self._failed[key].failures + 1 if key in self._failed else 1
        seconds = max(self._backoff.seconds(failures, key), at_least)
        self._failed[key] = _Failed(failures, now + seconds)
        return seconds

    def waiting(self, now: float) -> frozenset[str]:
        """Keys that are not to be tried yet."""
        return frozenset(key for key, failed in self._failed.items() if failed.due > now)

    def settle(self, failed: Iterable[str], tried_at: float) -> None:
        """After a round in which everything due at ``tried_at`` was tried: forget what did not fail again."""
        again = frozenset(failed)
        self._failed = {key: f for key, f in self._failed.items() if key in again or f.due > tried_at}

    def forgive(self, keys: Iterable[str]) -> None:
        """Try these keys at once, as if they had never failed."""
        for key in keys:
            self._failed.pop(key, None)

    def known(self) -> frozenset[str]:
        """Keys with at least one failure."""
        return frozenset(self._failed)

    def next_due(self, now: float) -> float | None:
        """Seconds until the next key is due (0 if one already is), None when nothing failed."""
        if not self._failed:
            return None
        return max(0.0, min(failed.due for failed in self._failed.values()) - now)
