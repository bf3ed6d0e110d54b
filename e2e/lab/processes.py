"""Start, find and stop the lab's long-running processes by pid, never by name.

A pid is remembered together with the start time of its process, so that a number reused by a stranger is never signalled.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.lab.steps import LabError


@dataclass(frozen=True, slots=True)
class Process:
    """A named process of one state folder: its pid file and log lie there."""

    state: Path
    name: str

    @property
    def log(self) -> Path:
        return self.state / "logs" / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """The pid while that very process runs, else None."""
        try:
            pid, started = self._pid_file.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if _start_time(int(pid)) == started else None

    def start(self, *args: str | Path, env: Mapping[str, str] | None = None, die_with_parent: bool = False) -> None:
        """Start the process in its own session unless it runs already; `die_with_parent` has the kernel kill it with us."""
        if self.pid is not None:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._pid_file.parent.mkdir(parents=True, exist_ok=True)
        argv = [str(a) for a in args]
        if die_with_parent:
            argv = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
        with self.log.open("ab") as out:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env or plain_env(), start_new_session=True)
        _CHILDREN[child.pid] = child
        self._pid_file.write_text(f"{child.pid} {_start_time(child.pid)}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if the process runs."""
        if (pid := self.pid) is not None:
            os.kill(pid, number)

    def stop(self, grace: float = 10.0) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds; returns when the process is gone."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGCONT)
            if not _gone(self, grace):
                self.signal(signal.SIGKILL)
                _gone(self, 10.0)
            if (child := _CHILDREN.pop(pid, None)) is not None:
                child.wait(timeout=10.0)
        self._pid_file.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise LabError with the end of the log when the process does not run."""
        if self.pid is None:
            tail = self.log.read_text(errors="replace")[-1500:] if self.log.exists() else ""
            raise LabError(f"{self.name} has stopped; the end of {self.log}:\n{tail}")

    @property
    def _pid_file(self) -> Path:
        return self.state / "pids" / self.name


def plain_env() -> dict[str, str]:
    """The environment of the lab's processes: no proxies, for all traffic is local, and the system folders on the path."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return {**kept, "PATH": f"{kept.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"}


_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


def _gone(process: Process, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.pid is None:
            return True
        time.sleep(0.02)
    return process.pid is None


def _start_time(pid: int) -> str | None:
    child = _CHILDREN.get(pid)
    if child is not None and child.poll() is not None:
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]
