"""Load from vegeta: open loop at a rate, closed loop with some connections. Every answer's status, latency and decision come back."""

from __future__ import annotations

import base64
import csv
import io
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.lab.binaries import binary
from e2e.lab.processes import plain_env
from e2e.lab.steps import LabError

from . import objects

_WHY = re.compile(rb"^x-modelfleet-decision:.*?why=(\w+)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Answer:
    """`at`: seconds since the first request. `why`: the decision's word, empty where no gateway of ours answered."""

    at: float
    milliseconds: float
    status: int
    why: str


def attack(folder: Path, urls: Sequence[str], model: str, seconds: float, rate: int = 0, connections: int = 16) -> list[Answer]:
    """Ask `urls` in turn: `rate` requests a second however slow the answers are, or, with rate 0, as fast as `connections` allow."""
    (folder / "body.json").write_bytes(objects.body(model))
    targets = folder / "targets"
    targets.write_text("".join(f"POST {url}/v1/chat/completions\nContent-Type: application/json\n@{folder / 'body.json'}\n\n" for url in urls))
    limits = ["-workers", str(connections), "-max-workers", str(connections)] if rate == 0 else []
    command: list[str | Path] = [
        binary("vegeta"), "attack", "-targets", targets, "-rate", f"{rate}/1s" if rate else "0", "-duration", f"{seconds}s", "-timeout", "20s",
        "-max-body", "0", *limits, "-output", folder / "answers.bin",
    ]  # fmt: skip
    _run(command)
    text = _run([binary("vegeta"), "encode", "-to", "csv", folder / "answers.bin"])
    return answers(text)


def answers(text: str) -> list[Answer]:
    """vegeta's CSV (time in ns, status, latency in ns, ..., headers in base64) in order of time. Pure."""
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    first = min((int(row[0]) for row in rows), default=0)
    found = [Answer((int(row[0]) - first) / 1e9, int(row[2]) / 1e6, int(row[1]), _why(row[11])) for row in rows]
    return sorted(found, key=lambda answer: answer.at)


def _why(headers: str) -> str:
    match = _WHY.search(base64.b64decode(headers))
    return match[1].decode() if match else ""


def _run(command: Sequence[str | Path]) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=plain_env(), check=False)
    if done.returncode != 0:
        raise LabError(f"vegeta failed: {done.stderr[-1000:]}")
    return done.stdout
