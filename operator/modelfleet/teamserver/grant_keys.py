"""The keys that sign grants, as files of a mounted Secret: each file one key, sorted by name, the first signs. Read again when they change.

A kubelet changes all files of a mounted Secret at once, so a rotation is seen whole. Keys are never logged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["GrantKeys"]

_log = logging.getLogger(__name__)
_LOOK_EVERY = 1.0


class GrantKeys:
    """Call it for the keys as they are now; they are looked at once a second at most. A folder that cannot be read leaves the last keys."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` in seconds, monotonic."""
        self._folder = folder
        self._clock = clock
        self._looked: float | None = None
        self._keys: tuple[bytes, ...] = ()

    def __call__(self) -> tuple[bytes, ...]:
        """The keys, the signing one first; empty while there are none."""
        now = self._clock()
        if self._looked is None or now - self._looked >= _LOOK_EVERY:
            self._looked = now
            self._read()
        return self._keys

    def _read(self) -> None:
        try:
            # a mounted Secret keeps its versions in folders that begin with a dot
            files = sorted(path for path in self._folder.iterdir() if not path.name.startswith(".") and path.is_file())
            keys = tuple(key for path in files if (key := path.read_bytes().strip()))
        except OSError as error:
            _log.warning("cannot read the grant keys in %s, the last ones stand: %s", self._folder, error.strerror)
            return
        if keys != self._keys:
            _log.info("grant keys: %d", len(keys))
            self._keys = keys
