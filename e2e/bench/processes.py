"""Processes of the bench: started in a folder, found by pid, gone with us whatever ends us."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import envoy

from e2e.lab.processes import Process, plain_env
from e2e.lab.steps import LabError

from .usage import cpu_seconds, family, rss_mib

ENVOY = Path(envoy.__file__).parent / "_bin" / "envoy"


@dataclass(frozen=True, slots=True)
class Started:
    """A running process with its children."""

    process: Process
    pid: int

    @property
    def cpu(self) -> float:
        """Seconds of CPU so far, children too. Raises LabError with the end of the log when it has ended."""
        self.process.check()
        return cpu_seconds(self.pid)

    @property
    def rss(self) -> float:
        """MiB resident, children too. Raises LabError with the end of the log when it has ended."""
        self.process.check()
        return rss_mib(self.pid)

    def stop(self, grace: float = 5.0) -> None:
        """SIGTERM, then SIGKILL; children that outlive it are killed."""
        members = family(self.pid)
        self.process.stop(grace)
        for pid in members:
            if os.path.exists(f"/proc/{pid}"):  # noqa: PTH110 - a string is shorter here
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def start(folder: Path, name: str, *command: str | Path, env: Mapping[str, str] | None = None) -> Started:
    """Start a process whose log is `logs/<name>.log` in the folder. `env` is added to an environment without ours and Kubernetes' variables."""
    process = Process(folder, name)
    kept = {k: v for k, v in plain_env().items() if not k.startswith(("MODELFLEET_", "KUBE"))}
    process.start(*command, env=kept | dict(env or {}), die_with_parent=True)
    pid = process.pid
    if pid is None:
        process.check()
        raise LabError(f"{name} did not start")
    return Started(process, pid)


def until(true: Callable[[], bool], what: str, watched: Started | None = None, seconds: float = 60.0) -> None:
    """Wait for what will come. Raises LabError naming it, or with the log of the process that ended meanwhile."""
    end = time.monotonic() + seconds
    while not true():
        if watched is not None:
            watched.process.check()
        if time.monotonic() > end:
            raise LabError(f"after {seconds:.0f} s still missing: {what}")
        time.sleep(0.05)


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def listens(address: str, port: int) -> bool:
    """True when something accepts there."""
    with socket.socket() as s:
        return s.connect_ex((address, port)) == 0
