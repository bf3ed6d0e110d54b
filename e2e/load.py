"""A bounded load of real requests: a few threads ask until told to stop, and every answer that was not complete is kept."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from e2e.fleet import Fleet


@dataclass
class Outcome:
    """What the load saw. ``failures`` are sentences; ``flavors`` counts answers by `<pool>/<flavor>`."""

    answers: int = 0
    flavors: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def under_load(fleet: Fleet, prompt: str = "Count to five.", threads: int = 2, limit: int = 5000, **options: Any) -> Iterator[Outcome]:
    """Ask from ``threads`` threads (every second request streamed) for as long as the block runs, at most ``limit`` requests each."""
    seen, stop = Outcome(), threading.Event()
    fleet.gateway  # noqa: B018 resolved once, before threads start

    def asking() -> None:
        for n in count():
            if stop.is_set() or n >= limit:
                return
            try:
                answer = fleet.ask(prompt, stream=n % 2 == 1, max_tokens=24, **options)
            except Exception as error:
                with seen.lock:
                    seen.failures.append(f"{type(error).__name__}: {error}"[:400])
            else:
                with seen.lock:
                    seen.answers += 1
                    seen.flavors[f"{answer.pool}/{answer.flavor}"] += 1
                    seen.reasons[answer.decision.get("why", "")] += 1
            stop.wait(0.1)

    workers = [threading.Thread(target=asking, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield seen
    finally:
        stop.set()
        for worker in workers:
            worker.join(timeout=150)
