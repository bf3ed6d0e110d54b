"""A router that dies is started again; one that keeps dying, or is told to stop, ends its keeper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

KEEP = "import sys; from modelfleet.router.keeper import keep; sys.exit(keep(sys.argv[1:], pause=0.01))"


def keeper(tmp_path: Path, child: str) -> subprocess.Popen[bytes]:
    """A keeper of a child that first appends its pid to `pids`."""
    told = f"import os, signal, sys, time; open({str(tmp_path / 'pids')!r}, 'a').write(f'{{os.getpid()}} '); {child}"
    return subprocess.Popen([sys.executable, "-c", KEEP, sys.executable, "-c", told], stderr=subprocess.PIPE)


def pids(tmp_path: Path, count: int) -> list[int]:
    for _ in range(500):
        found = (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else []
        if len(found) >= count:
            return [int(pid) for pid in found]
        time.sleep(0.02)
    raise AssertionError(f"{len(found)} children, not {count}")


def test_a_killed_child_is_started_again_and_a_stop_reaches_it(tmp_path: Path) -> None:
    kept = keeper(tmp_path, "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); time.sleep(60)")
    os.kill(pids(tmp_path, 1)[0], signal.SIGKILL)
    pids(tmp_path, 2)
    time.sleep(0.3)
    kept.send_signal(signal.SIGTERM)
    assert kept.wait(timeout=10) == 0
    assert len(pids(tmp_path, 2)) == 2


def test_a_child_that_keeps_dying_ends_the_keeper_with_its_code(tmp_path: Path) -> None:
    kept = keeper(tmp_path, "sys.exit(3)")
    assert kept.wait(timeout=30) == 3
    assert len(pids(tmp_path, 8)) == 8


def test_the_child_does_not_outlive_its_keeper(tmp_path: Path) -> None:
    kept = keeper(tmp_path, "time.sleep(60)")
    (child,) = pids(tmp_path, 1)
    kept.kill()
    kept.wait(timeout=10)
    for _ in range(200):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.02)
    raise AssertionError("the child lives on")
