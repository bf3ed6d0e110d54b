"""Whether the API server serves our kinds: asked before anything starts, since Kopf looks once, and now and then afterwards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from modelfleet.errors import ApiError, Stalled
from modelfleet.kube.client import Client
from modelfleet.kube.resources import OURS

__all__ = ["await_kinds", "watch_kinds"]

_log = logging.getLogger(__name__)
_PAUSE = 1.0


async def await_kinds(client: Client, tell: Callable[[str], None]) -> None:
    """Return when all our kinds are served. ``tell`` hears, in words, what is being waited for; each new word is logged once."""
    told = ""
    while word := await _what_lacks(client):
        if word != told:
            _log.warning("%s", word)
            told = word
        tell(word)
        await asyncio.sleep(_PAUSE)


async def watch_kinds(client: Client, period: float) -> None:
    """Ask every ``period`` seconds; raises Stalled(KindsMissing) when a definition was deleted under us. Errors of the API server are waited out."""
    while True:
        await asyncio.sleep(period)
        try:
            missing = await _missing(client)
        except ApiError as error:
            _log.debug("cannot ask which kinds are served: %s", error)
            continue
        if missing:
            raise Stalled("KindsMissing", _words(missing))


async def _what_lacks(client: Client) -> str:
    try:
        missing = await _missing(client)
    except ApiError as error:
        return f"cannot ask the API server which kinds it serves: {error.message}"
    return _words(missing) if missing else ""


async def _missing(client: Client) -> list[str]:
    groups = sorted({(r.group, r.version) for r in OURS})
    served = {(group, plural) for group, version in groups for plural in await client.served(group, version)}
    return sorted(f"{r.plural}.{r.group}" for r in OURS if (r.group, r.plural) not in served)


def _words(missing: list[str]) -> str:
    return f"CustomResourceDefinitions are missing: {', '.join(missing)}; install the chart modelfleet-crds"
