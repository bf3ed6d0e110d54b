"""A node's cgroup in every hierarchy of the host: made before its kubelet starts, killed and removed with it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def create(name: str) -> None:
    """Make the cgroup; on v1 a new cpuset is useless until it has the parent's processors and memory."""
    for hierarchy in _hierarchies():
        folder = hierarchy / name
        folder.mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / file).exists() and (folder / file).exists() and not (folder / file).read_text().strip():
                (folder / file).write_text((hierarchy / file).read_text())
        if _unified() == hierarchy:
            for place in (hierarchy, folder):
                wanted = {"cpu", "cpuset", "memory", "pids", "io"} & set((place / "cgroup.controllers").read_text().split())
                (place / "cgroup.subtree_control").write_text(" ".join(f"+{c}" for c in sorted(wanted)))


def kill(name: str) -> None:
    """SIGKILL every process in the cgroup and below; returns when they are gone or after 10 s."""
    deadline = time.monotonic() + 10
    while (pids := _processes(name)) and time.monotonic() < deadline:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


def remove(name: str) -> None:
    """Remove the cgroup and all below it."""
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / name, topdown=False):
            for _ in range(20):
                try:
                    Path(folder).rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)
                else:
                    break


def exists(name: str) -> bool:
    """Whether any hierarchy has the cgroup."""
    return any((h / name).exists() for h in _hierarchies())


def _processes(name: str) -> set[int]:
    found: set[int] = set()
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / name):
            try:
                found |= {int(p) for p in (Path(folder) / "cgroup.procs").read_text().split()}
            except (FileNotFoundError, OSError):
                continue
    return found - {0}


def _unified() -> Path | None:
    return ROOT if (ROOT / "cgroup.controllers").exists() else None


def _hierarchies() -> list[Path]:
    """Every mounted hierarchy; beside v1 ones there may be a v2 one, in which runc makes a cgroup too."""
    if (root := _unified()) is not None:
        return [root]
    return sorted(p for p in ROOT.iterdir() if p.is_dir() and not p.is_symlink() and (p / "cgroup.procs").exists())
