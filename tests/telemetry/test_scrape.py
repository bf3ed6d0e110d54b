"""Scraping real HTTP: answers, failures, and what is told to the loop."""

from __future__ import annotations

import asyncio
from typing import Self

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from modelfleet.core.world import EndpointHealth, Gateway
from modelfleet.observability import metrics
from modelfleet.telemetry.exposition import read_sample
from modelfleet.telemetry.scrape import Scraper, ScrapeSettings


class Router:
    """A router's /metrics on a loopback address of its own, made by the library that routers use."""

    def __init__(self, address: str) -> None:
        self.gateway = Gateway(name=f"gw-{address}", address=address)
        self.registry = CollectorRegistry()
        self.heartbeat = Gauge(metrics.HEARTBEAT, "h", registry=self.registry)
        self.tokens = Counter(metrics.USAGE_TOKENS, "t", ["pool", "flavor", "direction", "source"], registry=self.registry)
        self.up = Gauge(metrics.ENDPOINT_UP, "e", ["pool", "flavor", "reason"], registry=self.registry)
        Counter(metrics.REQUESTS, "r", ["policy"], registry=self.registry).labels('q"\n').inc()
        self.status = 200
        self.body: bytes | None = None
        self.silent = False
        self.beats = 0

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._answer, self.gateway.address, PORT)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if self.silent:
            await reader.read()
            writer.close()
            return
        self.beats += 1
        self.heartbeat.set(self.beats)
        body = generate_latest(self.registry) if self.body is None else self.body
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (self.status, len(body)) + body)
        await writer.drain()
        writer.close()


PORT = 18081


PATIENT = 60.0


async def rounds(scraper: Scraper, number: int, timeout: float = PATIENT) -> None:
    async with httpx.AsyncClient(timeout=timeout, trust_env=False) as client:
        for _ in range(number):
            await scraper.round(client)


def scraper_of(*gateways: Gateway, news: list[str] | None = None, timeout: float = PATIENT) -> Scraper:
    heard = news if news is not None else []
    return Scraper(lambda: gateways, ScrapeSettings(interval=0.01, timeout=timeout, port=PORT), lambda: heard.append("news"))


async def test_two_gateways_are_added_up():
    async with Router("127.0.0.11") as one, Router("127.0.0.12") as two:
        one.tokens.labels("a/p", "l4", "input", "reported").inc(100)
        scraper = scraper_of(one.gateway, two.gateway)
        await rounds(scraper, 1)
        one.tokens.labels("a/p", "l4", "input", "reported").inc(3)
        one.tokens.labels("a/p", "l4", "input", "estimated").inc(4)
        two.tokens.labels("a/p", "l4", "output", "reported").inc(5)
        await rounds(scraper, 1)
        telemetry = scraper.telemetry()
    assert telemetry.fresh
    assert [(s.pool, s.flavor, s.input_tokens, s.output_tokens) for s in telemetry.served] == [("a/p", "l4", 7, 5)]


async def test_news_is_told_once():
    async with Router("127.0.0.11") as one:
        news: list[str] = []
        scraper = scraper_of(one.gateway, news=news)
        await rounds(scraper, 2)
        assert len(news) == 1  # fresh
        one.up.labels("a/boss", "burst", "KeyRefused").set(0)
        await rounds(scraper, 2)
        assert len(news) == 2
        assert scraper.telemetry().endpoints == (EndpointHealth("a/boss", "burst", up=False, reason="KeyRefused"),)


@pytest.mark.parametrize("fault", ["status", "garbage", "binary", "silent", "refused"])
async def test_a_gateway_that_does_not_answer_properly_has_no_sample(fault):
    async with Router("127.0.0.11") as good, Router("127.0.0.12") as bad:
        match fault:
            case "status":
                bad.status = 500
            case "garbage":
                bad.body = f"{metrics.HEARTBEAT} one\n".encode()
            case "binary":
                bad.body = b"\xff\xfe"
            case "silent":
                bad.silent = True
            case "refused":
                bad.server.close()
                await bad.server.wait_closed()
        timeout = 0.3 if fault == "silent" else PATIENT
        scraper = scraper_of(good.gateway, bad.gateway, timeout=timeout)
        await rounds(scraper, 2, timeout)
        assert not scraper.telemetry().fresh
        assert good.beats == 2


async def test_a_ready_gateway_without_an_address_is_not_fresh():
    scraper = scraper_of(Gateway(name="new"))
    await rounds(scraper, 1)
    assert not scraper.telemetry().fresh


async def test_only_families_of_ours_are_read_and_unknown_labels_do_no_harm():
    sample = read_sample(
        f'# TYPE x histogram\nx_bucket{{le="nonsense\n{metrics.HEARTBEAT} 7\n'
        f'{metrics.USAGE_TOKENS}{{pool="a/p",flavor="f",direction="sideways"}} 1\n'
        f'{metrics.USAGE_TOKENS}{{flavor="f",direction="input"}} 1\n'
        f'{metrics.ENDPOINT_UP}{{pool="a/p",flavor="f",reason="Mystery"}} 0\n'
        f'{metrics.ENDPOINT_UP}{{pool="a/p",flavor="g",reason=""}} NaN\n'
    )
    assert sample.heartbeat == 7
    assert sample.tokens == {}
    assert sample.endpoints == (EndpointHealth("a/p", "f", up=False, reason="Unreachable"),)
