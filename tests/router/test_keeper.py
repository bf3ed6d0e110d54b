"""A router that dies is started again; one that keeps dying, or is told to stop, ends its keeper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

KEEP = "import sys; from modelfleet.router.keeper import keep; sys.exit(keep(sys.argv[1:], pause=0.01))"


def keeper(tmp_path: Path, child: str, first: str = "pass") -> subprocess.Popen[bytes]:
    """A keeper of a child that does what comes `first`, then appends its pid to `pids`."""
    told = f"import os, signal, sys, time; {first}; open({str(tmp_path / 'pids')!r}, 'a').write(f'{{os.getpid()}} '); {child}"
    return subprocess.Popen([sys.executable, "-c", KEEP, sys.executable, "-c", told], stderr=subprocess.PIPE)


def pids(tmp_path: Path, count: int) -> list[int]:
    for _ in range(4500):
        found = (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else []
        if len(found) >= count:
            return [int(pid) for pid in found]
        time.sleep(0.02)
    raise AssertionError(f"{len(found)} children, not {count}")


def is_gone(pid: int) -> bool:
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_killed_child_is_started_again_and_a_stop_reaches_it(tmp_path: Path) -> None:
    kept = keeper(tmp_path, "time.sleep(600)", first="signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))")
    os.kill(pids(tmp_path, 1)[0], signal.SIGKILL)
    pids(tmp_path, 2)
    kept.send_signal(signal.SIGTERM)
    assert kept.wait(timeout=90) == 0
    assert len(pids(tmp_path, 2)) == 2


def test_a_child_that_keeps_dying_ends_the_keeper_with_its_code(tmp_path: Path) -> None:
    kept = keeper(tmp_path, "sys.exit(3)")
    assert kept.wait(timeout=120) == 3
    assert len(pids(tmp_path, 8)) >= 8


def test_the_child_does_not_outlive_its_keeper(tmp_path: Path) -> None:
    kept = keeper(tmp_path, "time.sleep(600)")
    (child,) = pids(tmp_path, 1)
    kept.kill()
    kept.wait(timeout=90)
    for _ in range(4500):
        if is_gone(child):
            return
        time.sleep(0.02)
    raise AssertionError("the child lives on")
