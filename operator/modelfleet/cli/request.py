"""The command `explain request`: reads the body, asks a router or the API server's objects, prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from modelfleet.errors import Stalled
from modelfleet.router.explain import explain_from_api, explain_from_router, explain_lines

__all__ = ["explain_request"]


def explain_request(
    kubeconfig: Path | None, context: str | None, policy: str | None, body: Path, *, headers: Iterable[str], router: str | None, as_json: bool
) -> None:
    """Print which pool would answer the request in ``body``, and why. Raises Stalled on unusable arguments."""
    given = dict(_header(h) for h in headers)
    try:
        data = sys.stdin.buffer.read() if str(body) == "-" else body.read_bytes()
    except OSError as error:
        raise Stalled("UnreadableBody", f"--body {body}: {error.strerror}") from error
    if router is not None:
        answer = explain_from_router(router, data, given, policy)
    elif policy is not None:
        answer = explain_from_api(policy, data, given, kubeconfig, context)
    else:
        raise Stalled("NoPolicy", "--policy: name a RoutingPolicy as <namespace>/<name>, or ask a router with --router URL")
    if as_json:
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
        return
    console = Console(highlight=False)
    for line in explain_lines(answer):
        console.print(line, soft_wrap=True, markup=False)


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise Stalled("BadHeader", f"--header {text}: write name=value")
    return name.lower(), value
