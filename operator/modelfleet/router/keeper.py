"""Keeps a router running: starts it as a child, and anew whenever it dies, until told to stop.

Why not leave that to the kubelet: while a container restarts its pod is not ready, so a crash of the router would take a healthy Envoy out of the Service, and
a second crash for ten seconds and more. Here Envoy serves its static chain for the moment that a new router needs. A router that keeps dying
ends the keeper too, so that the pod tells about it. Imports nothing heavy: it must outlive what it watches.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["keep"]

_SETTLE = 60.0
"""Seconds in which ``_DEATHS`` deaths are too many."""
_DEATHS = 8
_PAUSE = 0.2
_PR_SET_PDEATHSIG = 1


def keep(command: Sequence[str], *, clock: Callable[[], float] = time.monotonic, pause: float = _PAUSE) -> int:
    """Run ``command`` until it exits 0, a signal comes (its exit code then), or it died eight times in a minute (the last code)."""
    kept = _Kept()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, kept.stop)
    deaths = deque[float](maxlen=_DEATHS)
    while True:
        code = kept.run(command)
        if kept.stopping or code == 0:
            return code
        deaths.append(clock())
        sys.stderr.write(f'level=error room=router.keeper msg="the router died with {code}, starting it again"\n')
        if len(deaths) == _DEATHS and deaths[-1] - deaths[0] < _SETTLE:
            return code if code > 0 else 128 - code
        time.sleep(pause)


class _Kept:
    """The child of the moment, and whether it was told to stop."""

    def __init__(self) -> None:
        self.stopping = False
        self._child: subprocess.Popen[bytes] | None = None

    def run(self, command: Sequence[str]) -> int:
        self._child = subprocess.Popen(command, preexec_fn=_die_with_parent)  # noqa: PLW1509 - no thread runs here
        if self.stopping:
            self._child.terminate()
        return self._child.wait()

    def stop(self, number: int, _frame: Any) -> None:
        self.stopping = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
