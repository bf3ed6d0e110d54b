"""What the processes ask of the API server while nothing happens: counted from its audit log."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from .figures import Json, calls_per_minute
from .scene import Scene


def idle(scene: Scene, settle: float, seconds: float) -> Json:
    """Calls per minute by user agent and verb, after `settle` seconds of rest."""
    time.sleep(settle)
    began = datetime.now(UTC)
    time.sleep(seconds)
    ended = datetime.now(UTC)
    return {"seconds": seconds, "calls": calls_per_minute(scene.server.audit_events(), began, ended)}
