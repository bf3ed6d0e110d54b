"""Asks each gateway's router for its metrics, every few seconds, and keeps the fold. The only I/O of the room.

Decided here: whom to ask and how long to wait. A gateway that does not answer is a gateway without a sample; what that means is in ``fold.py``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from modelfleet.core.world import EndpointHealth, Gateway, Telemetry
from modelfleet.observability.logging import say

from .exposition import read_sample
from .fold import Fold, Sample, fold, telemetry_of

__all__ = ["ScrapeSettings", "Scraper"]

_log = logging.getLogger(__name__)
_LARGEST_ANSWER = 8 * 1024 * 1024
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class ScrapeSettings:
    """Seconds between rounds, seconds for one answer, and the port of the router in a gateway pod."""

    interval: float = 5.0
    timeout: float = 2.0
    port: int = 8081


class Scraper:
    """Keeps ``telemetry()`` true for the gateways that ``gateways()`` names (all pods, ready or not)."""

    def __init__(
        self,
        gateways: Callable[[], Sequence[Gateway]],
        settings: ScrapeSettings,
        on_news: Callable[[], None] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """``on_news`` is called when an endpoint's health or the freshness changed; ``clock`` is monotonic, in seconds."""
        self._gateways = gateways
        self._settings = settings
        self._on_news = on_news
        self._clock = clock
        self._transport = transport
        self._fold = Fold()
        self._told: tuple[tuple[EndpointHealth, ...], bool] = ((), False)
        self._failing: frozenset[str] = frozenset()

    def telemetry(self) -> Telemetry:
        """What is known now; ages by itself when scrapes fail."""
        return telemetry_of(self._fold, frozenset(_key(g) for g in self._gateways() if g.ready), self._clock())

    async def run(self) -> None:
        """Scrape until cancelled."""
        # pod addresses are ours: no proxy of the environment, no redirect elsewhere
        limits = httpx.Limits(max_connections=_AT_ONCE, max_keepalive_connections=_AT_ONCE)
        timeout, transport = self._settings.timeout, self._transport
        async with httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False, follow_redirects=False, transport=transport) as client:
            while True:
                await self.round(client)
                await asyncio.sleep(self._settings.interval)

    async def round(self, client: httpx.AsyncClient) -> None:
        """Ask every ready gateway once and fold the answers."""
        gateways = self._gateways()
        asked = {_key(g): g for g in gateways if g.ready and g.address}
        gate = asyncio.Semaphore(_AT_ONCE)
        answers = await asyncio.gather(*(self._ask(client, gate, g) for g in asked.values()))
        samples = {key: sample for key, sample in zip(asked, answers, strict=True) if sample is not None}
        self._fold = fold(self._fold, samples, frozenset(_key(g) for g in gateways), self._clock())
        self._failing = frozenset(asked) - frozenset(samples)
        telemetry = self.telemetry()
        told = (telemetry.endpoints, telemetry.fresh)
        if told != self._told:
            self._told = told
            self._on_news()

    async def _ask(self, client: httpx.AsyncClient, gate: asyncio.Semaphore, gateway: Gateway) -> Sample | None:
        try:
            async with gate, asyncio.timeout(self._settings.timeout):
                return read_sample(await self._text(client, gateway))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, TimeoutError) as error:
            if _key(gateway) not in self._failing:
                say(_log, logging.WARNING, "cannot scrape a gateway", kind="Pod", name=gateway.name, error=str(error) or type(error).__name__)
            return None

    async def _text(self, client: httpx.AsyncClient, gateway: Gateway) -> str:
        async with client.stream("GET", _url(gateway, self._settings.port)) as response:
            response.raise_for_status()
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _LARGEST_ANSWER:
                    raise ValueError(f"more than {_LARGEST_ANSWER} bytes of metrics")
        return body.decode("utf-8")


def _key(gateway: Gateway) -> str:
    return f"{gateway.name}@{gateway.address}"


def _url(gateway: Gateway, port: int) -> str:
    host = f"[{gateway.address}]" if ":" in gateway.address else gateway.address
    return f"http://{host}:{port}/metrics"
