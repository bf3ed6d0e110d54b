"""What a process and its children use, from /proc: seconds of CPU, memory."""

from __future__ import annotations

import os
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its living descendants, in seconds; counted in ticks of 10 ms."""
    return sum(_cpu(p) for p in family(pid))


def rss_mib(pid: int) -> float:
    """Resident memory of a process and its descendants, in MiB; shared pages count in each."""
    return sum(_rss(p) for p in family(pid))


def family(pid: int) -> list[int]:
    """A process and its descendants. What ends meanwhile is left out."""
    parents = {int(p.name): _parent(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit()}
    found = [pid] if pid in parents else []
    for member in found:
        found += [p for p, parent in parents.items() if parent == member]
    return found


def _fields(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _parent(pid: int) -> int:
    fields = _fields(pid)
    return int(fields[1]) if fields else 0


def _cpu(pid: int) -> float:
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12])) / _TICK if fields else 0.0


def _rss(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)
