"""Log lines: one line per fact, ``key=value``, objects named by kind, namespace and name.

Decided here: the shape of a line and the names of its fields. What is worth a line is decided where it happens: one per cycle that wrote
something, one per change, one per failure. Secrets are never fields.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Final, TextIO

__all__ = ["LEVELS", "KeyValueFormatter", "configure", "say"]

LEVELS: Final = ("debug", "info", "warning", "error")

_ATTRIBUTE: Final = "modelfleet_fields"
_BARE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@+%")
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_NOISY: Final = ("httpx", "httpcore", "kopf.objects", "asyncio")


def say(logger: logging.Logger, level: int, message: str, /, **fields: object) -> None:
    """Log ``message`` with fields; None fields are left out. Begin with ``kind``, ``namespace``, ``name`` where there is an object."""
    if logger.isEnabledFor(level):
        logger.log(level, "%s", message, extra={_ATTRIBUTE: fields})


class KeyValueFormatter(logging.Formatter):
    """``ts=... level=... room=... msg="..." key=value``, always one line, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        """One line without its end."""
        fields: dict[str, Any] = {
            "ts": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "room": record.name.removeprefix("modelfleet."),
            "msg": record.getMessage(),
            **getattr(record, _ATTRIBUTE, {}),
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return " ".join(f"{key}={_value(value)}" for key, value in fields.items() if value is not None)


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send every log of this process, libraries included, to ``stream`` (stderr) as lines of ours. ``level`` is one of LEVELS."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if text and _BARE.issuperset(text) else f'"{text.translate(_ESCAPES)}"'
