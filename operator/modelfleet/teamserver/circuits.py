"""Circuits: who is not called for a while, since calls there cost without answering.

Decided here: a target is closed to calls after five failures in a row that may have been billed, and after ten seconds one call is let through to try. In a row
means in the order in which the calls left: of calls that are out together the failures are back first, and that says nothing about the others. An endpoint that
reported more than its bound blocks the targets that reach it for as long. Not decided here: which failure may have been billed (``calls.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

__all__ = ["FAILURES", "PAUSE", "Circuits", "Pass"]

FAILURES: Final = 5
PAUSE: Final = 10.0
"""Seconds."""


@dataclass(eq=False, slots=True)
class Pass:
    """A call that may leave. ``ok`` None: it is out."""

    target: str
    trial: bool
    ok: bool | None = None


@dataclass(slots=True)
class _Circuit:
    passes: list[Pass] = field(default_factory=list)
    opened: float | None = None
    trying: bool = False


class Circuits:
    """The circuits of a process. ``now``: seconds of a clock that never goes back."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._targets: dict[str, _Circuit] = {}
        self._blocked: dict[tuple[str, str], float] = {}

    def enter(self, target: str, endpoints: Iterable[tuple[str, str]] = ()) -> Pass | None:
        """Whether a call may leave for a target that reaches these (pool, flavor). What it gets is given to ``leave`` when the call has ended."""
        now = self._now()
        if any(self._blocked.get(endpoint, now) > now for endpoint in endpoints):
            return None
        circuit = self._targets.setdefault(target, _Circuit())
        if circuit.opened is not None:
            if circuit.trying or now - circuit.opened < PAUSE:
                return None
            circuit.trying = True
        entered = Pass(target, trial=circuit.trying)
        circuit.passes.append(entered)
        return entered

    def leave(self, entered: Pass, *, ok: bool | None) -> None:
        """How a call went: True answered, False failed and may have been billed, None says nothing about the target."""
        circuit = self._targets.setdefault(entered.target, _Circuit())
        entered.ok = ok
        if ok is None:
            circuit.passes = [one for one in circuit.passes if one is not entered]
        if entered.trial:
            circuit.trying = False
            circuit.opened = circuit.opened if ok is None else None if ok else self._now()
        elif circuit.opened is None and _in_a_row(circuit.passes) >= FAILURES:
            circuit.opened = self._now()
        _forget(circuit)
        if circuit == _Circuit():
            del self._targets[entered.target]

    def overran(self, endpoint: tuple[str, str]) -> None:
        """This (pool, flavor) reported more than the bound of its call."""
        self._blocked[endpoint] = self._now() + PAUSE

    def open(self) -> list[str]:
        """What is closed to calls now, sorted."""
        now = self._now()
        targets = [target for target, circuit in self._targets.items() if circuit.opened is not None]
        return sorted([*targets, *("/".join(endpoint) for endpoint, until in self._blocked.items() if until > now)])


def _in_a_row(passes: list[Pass]) -> int:
    """The most failures next to each other."""
    most = row = 0
    for one in passes:
        row = row + 1 if one.ok is False else 0
        most = max(most, row)
    return most


def _forget(circuit: _Circuit) -> None:
    """Calls that can be part of no row any more: all before the first that is out, but for the failures just before it; all of them once it is open."""
    passes = circuit.passes
    first_out = next((index for index, one in enumerate(passes) if one.ok is None), len(passes))
    keep = first_out
    while circuit.opened is None and keep and passes[keep - 1].ok is False:
        keep -= 1
    circuit.passes = passes[keep:]
