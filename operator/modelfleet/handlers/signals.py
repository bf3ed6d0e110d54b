"""An event loop whose signal handlers are ours for good.

Kopf installs handlers for SIGTERM and SIGINT as it starts, which would cut our act short after five seconds. Replacing them afterwards leaves a gap of
some milliseconds in which a signal reaches Kopf; a loop that refuses them leaves none (docs/adr/0008-signals-are-sealed.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVarTuple

__all__ = ["SignalLoop"]

Ts = TypeVarTuple("Ts")


class SignalLoop(asyncio.SelectorEventLoop):
    """The usual loop of Unix, plus ``seal``."""

    _sealed = False

    def seal(self) -> None:
        """Keep the handlers that are installed now; later ones are ignored, without a word, as Kopf expects."""
        self._sealed = True

    def add_signal_handler(self, sig: int, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """As usual, until sealed."""
        if not self._sealed:
            super().add_signal_handler(sig, callback, *args)
