"""Where the lab keeps things: all of it outside the checkout.

The cache (`$XDG_CACHE_HOME/modelfleet/lab`) holds what is expensive and reusable: binaries, images, wheels. The state of one
running lab lies under `/run/modelfleet-lab/<name>` and is gone after `down`.
"""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def cache_dir() -> Path:
    """The lab's cache folder, created if absent."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelfleet" / "lab"
    root.mkdir(parents=True, exist_ok=True)
    return root


def state_dir(name: str) -> Path:
    """The folder of the running lab `name`; not created here."""
    return Path(os.environ.get("MODELFLEET_LAB_STATE") or "/run/modelfleet-lab") / name
