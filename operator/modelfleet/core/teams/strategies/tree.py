"""The tree of a reduce: consecutive findings in groups of at most ``fanIn``, groups of nearly equal size, until one call can take what is left."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["groups", "levels"]


def groups(count: int, fan_in: int) -> tuple[tuple[int, int], ...]:
    """Where each group of one level begins and ends; one group (empty or not) where a single call suffices. ``fan_in`` is at least 2."""
    number = max(-(-count // fan_in), 1)
    return tuple((count * i // number, count * (i + 1) // number) for i in range(number))


def levels(count: int, fan_in: int) -> Iterator[tuple[int, int]]:
    """(inputs, calls) of each level, the last of one call. A group of one needs no call: it goes up as it is."""
    while count > fan_in:
        made = groups(count, fan_in)
        merged = [end - begin for begin, end in made if end - begin > 1]
        yield sum(merged), len(merged)
        count = len(made)
    yield count, 1
