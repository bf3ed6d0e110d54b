"""One line per step with its duration, and the one error the lab raises.

Progress goes to stderr, so that commands which print a result keep stdout for it.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

console = Console(stderr=True, highlight=False)


class LabError(RuntimeError):
    """The lab cannot go on; the message is a sentence that says what to do."""


@contextmanager
def step(text: str, quiet: bool = False) -> Iterator[None]:
    """Report `text` with the seconds its block took; the line says so when the block raised."""
    began = time.monotonic()
    try:
        yield
    except BaseException:
        console.print(f"[red]✗[/red] {text} [dim]{time.monotonic() - began:.1f} s[/dim]", soft_wrap=True)
        raise
    if not quiet:
        done(text, began)


def done(text: str, began: float) -> None:
    """Report a step that began at this reading of the monotonic clock, in seconds."""
    console.print(f"[green]✓[/green] {text} [dim]{time.monotonic() - began:.1f} s[/dim]", soft_wrap=True)


def sh(
    *args: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command and capture its text. Raises LabError with the tail of its output when it fails and `check` is set."""
    argv: Sequence[str] = [str(a) for a in args]
    try:
        ended = subprocess.run(argv, env=env, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError as e:
        raise LabError(f"{argv[0]} is not installed; `python -m e2e.lab up` as root installs what is missing") from e
    if check and ended.returncode != 0:
        tail = (ended.stderr or ended.stdout).strip()[-3000:]
        raise LabError(f"`{' '.join(argv)[:200]}` failed with {ended.returncode}:\n{tail}")
    return ended
