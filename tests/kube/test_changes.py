"""The batch window, by a clock that is handed in."""

from __future__ import annotations

import asyncio

from modelfleet.kube.changes import Changes, Window


def test_a_lone_change_waits_for_the_idle_time_and_a_stream_of_them_for_the_cap() -> None:
    now = [100.0]
    changes = Changes(Window(idle=0.02, cap=1.0), clock=lambda: now[0])
    assert changes.closes_in() is None
    changes.add("a")
    assert changes.closes_in() == 0.02 or abs(changes.closes_in() - 0.02) < 1e-9
    for _ in range(99):
        now[0] += 0.01
        changes.add("b")
    assert 0 < changes.closes_in() < 0.02
    now[0] += 0.01
    changes.add("c")
    assert changes.closes_in() < 1e-9
    assert changes.drain() == {"a", "b", "c"}
    assert changes.closes_in() is None
    changes.add("d")
    assert changes.closes_in() > 0


async def test_wait_collects_what_comes_during_the_window() -> None:
    changes = Changes()
    waiting = asyncio.create_task(changes.wait())
    await asyncio.sleep(0)
    changes.add("a")
    changes.add("a")
    await asyncio.sleep(0)
    changes.add("b")
    assert await waiting == {"a", "b"}
    assert await changes.wait(0.001) == frozenset()
    changes.add("c")
    assert await changes.wait(0) == {"c"}
