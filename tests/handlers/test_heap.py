"""The collector looks through everything in quiet moments, and not again before it is due."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from modelfleet.handlers.heap import Heap


class Loop:
    """A loop and a clock in one."""

    def __init__(self) -> None:
        self.cycles, self.now = 0, 100.0


@pytest.fixture
def loop() -> Iterator[Loop]:
    before = gc.get_threshold()
    yield Loop()
    gc.set_threshold(*before)
    gc.unfreeze()


def tick(heap: Heap, loop: Loop, seconds: float, cycles: int = 0) -> bool:
    loop.now, loop.cycles = loop.now + seconds, loop.cycles + cycles
    return heap.tick()


def test_it_tidies_once_after_the_first_work_and_then_when_due_and_quiet(loop: Loop) -> None:
    heap = Heap(lambda: loop.cycles, lambda: loop.now)
    assert not tick(heap, loop, 1000)  # nothing was planned yet
    assert not tick(heap, loop, 1, cycles=1)
    assert not tick(heap, loop, 2)
    assert tick(heap, loop, 1)
    assert gc.get_freeze_count() > 0
    assert not tick(heap, loop, 10, cycles=1)
    assert not tick(heap, loop, 10)  # quiet, and not due
    assert not tick(heap, loop, 600, cycles=1)  # due, and busy
    assert tick(heap, loop, 5)
    assert not tick(heap, loop, 1000)  # nothing has happened since


def test_a_loop_that_never_rests_does_not_put_it_off_for_ever(loop: Loop) -> None:
    heap = Heap(lambda: loop.cycles, lambda: loop.now)
    tick(heap, loop, 1, cycles=1)
    assert tick(heap, loop, 5)
    assert not any(tick(heap, loop, 1, cycles=1) for _ in range(1799))
    assert tick(heap, loop, 1, cycles=1)
    assert not any(tick(heap, loop, 1, cycles=1) for _ in range(600))


def test_what_was_set_aside_is_looked_through_again(loop: Loop) -> None:
    heap = Heap(lambda: loop.cycles, lambda: loop.now)
    alive: list[object] = []
    alive.append(alive)
    tick(heap, loop, 1, cycles=1)
    assert tick(heap, loop, 5)
    known = id(alive)
    del alive
    gc.collect()
    assert any(id(o) == known for o in _frozen_lists(known))
    tick(heap, loop, 700, cycles=1)
    assert tick(heap, loop, 5)
    assert not _frozen_lists(known)


def _frozen_lists(known: int) -> list[object]:
    gc.unfreeze()
    return [o for o in gc.get_objects() if isinstance(o, list) and id(o) == known and len(o) == 1 and o[0] is o]
