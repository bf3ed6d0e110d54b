"""Promise: `make demo` finishes by itself, on one screen, and may be repeated on a fleet that stands."""

from __future__ import annotations

import subprocess
import sys

import pytest

from e2e.cluster import ROOT
from e2e.fleet import DEMO, Fleet

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1500)]


def test_the_demo_tells_who_answered_on_what_for_how_much_and_why(fleet: Fleet) -> None:
    done = subprocess.run([sys.executable, "-m", "e2e.demo"], cwd=ROOT, capture_output=True, text=True, timeout=1400, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    screen = done.stdout[done.stdout.index("the fleet") :]
    for line in (f"{DEMO}/small", f"{DEMO}/boss", "h100:1", "l4:1", "tokens in", "rule short matches", "rule canary draws by weight", "Try next:"):
        assert line in screen
    assert f"the team {DEMO}/readers" in screen
    assert "the boss read" in screen
    answers = [line for line in screen.splitlines() if "tokens in" in line]
    assert len(answers) == 5
    assert all("$0.00" in line for line in answers)
    assert fleet.pool("boss")["status"]["cost"]["perMillionTokens"]["live"]
