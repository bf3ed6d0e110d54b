"""The grants that requests show: verified with the keys of a mounted Secret, each file one key, read again when they change.

Decided here: nothing about a call; whether a header is a grant at all. The keys, the headers and what is in them are never logged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from modelfleet.core.grants import GRANT_HEADER, GrantError, verify_grant
from modelfleet.core.routing.granted import Given

__all__ = ["GrantReader"]

_log = logging.getLogger(__name__)
_LOOK_EVERY = 1.0


class GrantReader:
    """Call it with a request's headers. Without a folder, or without keys in it, no header is a grant."""

    def __init__(self, folder: str | None = None, *, wall: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic) -> None:
        """``wall``: Unix seconds, that grants expire by; ``clock``: monotonic seconds, that tell when to look for new keys."""
        self._folder = None if folder is None else Path(folder)
        self._wall = wall
        self._clock = clock
        self._looked: float | None = None
        self._keys: tuple[bytes, ...] = ()

    def __call__(self, headers: Mapping[str, str]) -> Given:
        """The grant, why it is none, or None where there is no such header."""
        header = headers.get(GRANT_HEADER)
        if header is None:
            return None
        try:
            return verify_grant(header, self._present_keys(), self._wall())
        except GrantError as error:
            return error

    def _present_keys(self) -> tuple[bytes, ...]:
        """Looked for once a second at most. A folder that cannot be read leaves the last keys."""
        now = self._clock()
        if self._folder is not None and (self._looked is None or now - self._looked >= _LOOK_EVERY):
            self._looked = now
            try:
                # a mounted Secret keeps its versions in folders that begin with a dot
                files = sorted(path for path in self._folder.iterdir() if not path.name.startswith(".") and path.is_file())
                self._keys = tuple(key for path in files if (key := path.read_bytes().strip()))
            except OSError as error:
                _log.warning("cannot read the grant keys, the last ones stand: %s", error.strerror)
        return self._keys
