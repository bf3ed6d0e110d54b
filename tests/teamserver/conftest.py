"""A door over a scripted engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.front_door import Door, Open, ScriptedEngine, ScriptedRun

from modelfleet.teamserver.journal.sqlite import SqliteJournal


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Open]:
    journal = await SqliteJournal.open(tmp_path / "journal")
    doors: list[Door] = []

    def open_(script: Callable[[ScriptedRun], object], **settings: Any) -> Door:
        doors.append(Door(ScriptedEngine(script), journal, **settings))
        return doors[-1]

    yield open_
    for opened in doors:
        await opened.client.aclose()
    await journal.close()
