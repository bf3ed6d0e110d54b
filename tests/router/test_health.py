"""Probes of remote endpoints: the words for what they find, the key they carry, and that it is never told."""

from __future__ import annotations

import asyncio
import logging

import pytest
from prometheus_client import generate_latest
from tests.support.envoy import Reply, Request, Upstream, until

from modelfleet.core.routing.egress import egress
from modelfleet.core.routing.ir import RemoteCluster, SecretRef
from modelfleet.router.health import EndpointHealth, Prober, probe_outcome
from modelfleet.router.metrics import RouterMetrics
from modelfleet.telemetry.exposition import read_sample

LOOPBACK = egress(["127.0.0.0/8", "::1"])
REF = SecretRef("shop", "k", "token")


@pytest.mark.parametrize(
    ("status", "before", "reason"),
    [
        (200, None, ""), (200, "KeyRefused", ""), (404, None, ""), (404, "Unreachable", ""), (404, "KeyRefused", "KeyRefused"),
        (302, "KeyRefused", "KeyRefused"),
        (401, None, "KeyRefused"), (403, "", "KeyRefused"), (429, "", "RateLimited"), (500, "", "Unreachable"), (503, "KeyRefused", "Unreachable"),
    ],
)  # fmt: skip
def test_the_word_for_a_status(status: int, before: str | None, reason: str) -> None:
    assert probe_outcome(status, before) == reason


def test_an_endpoint_has_one_series_whatever_it_goes_through_and_none_once_it_is_gone() -> None:
    """The operator believes the worst series: one left behind would keep an endpoint down for ever."""
    metrics = RouterMetrics()
    health = EndpointHealth(metrics)
    for reason in ("Unreachable", "", "KeyRefused", "RateLimited", "", "", "SecretMissing", "EndpointNotAllowed", ""):
        health.observe("shop/b", "far", reason, probed=True)
        told = read_sample(generate_latest(metrics.registry).decode()).endpoints
        assert [(t.pool, t.flavor, t.up, t.reason) for t in told] == [("shop/b", "far", not reason, reason)]
    health.keep([])
    assert read_sample(generate_latest(metrics.registry).decode()).endpoints == ()


def test_a_request_in_flight_does_not_clear_an_endpoint_that_leads_inside() -> None:
    heard: list[frozenset[tuple[str, str]]] = []
    health = EndpointHealth(RouterMetrics(), lambda: heard.append(health.barred()))
    for reason, probed in (("", False), ("EndpointNotAllowed", True), ("", False), ("Unreachable", False), ("", True), ("KeyRefused", False)):
        health.observe("shop/b", "far", reason, probed=probed)
    assert heard == [frozenset({("shop/b", "far")}), frozenset()]
    assert health.reason("shop/b", "far") == "KeyRefused"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "inside.example"])
async def test_an_endpoint_that_leads_inside_is_not_asked_until_it_is_allowed(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = await Upstream(lambda _: Reply()).start()
    if host == "inside.example":
        loop = asyncio.get_running_loop()
        resolve = loop.getaddrinfo
        monkeypatch.setattr(loop, "getaddrinfo", lambda name, port, **how: resolve("127.0.0.1" if name == host else name, port, **how))
    outcomes = []
    try:
        for allow in ([], ["10.0.0.0/8"], ["127.0.0.0/8", "::1"], [host]):
            health = EndpointHealth(RouterMetrics())
            prober = Prober(health, "/nowhere.pem", egress(allow))
            prober.watch([a_remote(upstream.port, secret=None, host=host)], {})
            task = asyncio.create_task(prober.run())
            await until(lambda: health.reason("shop/b", "far") is not None, "an outcome")  # noqa: B023 - awaited at once
            task.cancel()
            outcomes.append(health.reason("shop/b", "far"))
            assert bool(upstream.requests) == ("" in outcomes)
    finally:
        await upstream.stop()
    by_network = "EndpointNotAllowed" if host == "localhost" else ""
    assert outcomes == ["EndpointNotAllowed", "EndpointNotAllowed", by_network, ""]
    assert upstream.requests[-1].headers["host"] == f"{host}:{upstream.port}"


def a_remote(port: int, secret: SecretRef | None = REF, host: str = "127.0.0.1") -> RemoteCluster:
    return RemoteCluster("remote/shop/b/far", "shop/b", "far", host, port, tls=False, path_prefix="/api/v1", upstream_model="x", concurrency=1, secret=secret)


async def test_an_endpoint_is_asked_with_its_key_again_when_the_key_changes_and_again_while_it_is_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    keys: list[str | None] = []

    def reply(request: Request) -> Reply:
        assert (request.method, request.path) == ("GET", "/api/v1/models")
        keys.append(request.headers.get("authorization"))
        return Reply(status=200 if keys[-1] == "Bearer right" else 401)

    upstream = await Upstream(reply).start()
    health = EndpointHealth(RouterMetrics())
    prober = Prober(health, "/nowhere.pem", LOOPBACK, every=0.05)
    task = asyncio.create_task(prober.run())
    try:
        prober.watch([a_remote(upstream.port)], {})
        await until(lambda: health.reason("shop/b", "far") == "SecretMissing", "SecretMissing")
        assert keys == []
        prober.watch([a_remote(upstream.port)], {REF: ("1", b"wrong-1x1\n")})
        await until(lambda: health.reason("shop/b", "far") == "KeyRefused", "KeyRefused")
        prober.watch([a_remote(upstream.port)], {REF: ("2", b"right")})
        await until(lambda: health.reason("shop/b", "far") == "", "up")
        asked = len(keys)
        await until(lambda: len(keys) > asked + 2, "probes while it is up")
        await upstream.stop()
        prober.watch([a_remote(1)], {REF: ("2", b"right")})
        await until(lambda: health.reason("shop/b", "far") == "Unreachable", "Unreachable")
        prober.watch([], {})
        health.keep([])
        await asyncio.sleep(0.2)
        assert health.reason("shop/b", "far") is None
        assert not task.done()
    finally:
        task.cancel()
        await upstream.stop()
    assert {"Bearer wrong-1x1", "Bearer right"} == set(keys)
    assert "wrong-1x1" not in caplog.text
    assert "right" not in caplog.text


async def test_a_name_that_led_inside_and_resolves_no_more_stays_barred() -> None:
    health = EndpointHealth(RouterMetrics())
    health.observe("shop/b", "far", "EndpointNotAllowed", probed=True)
    prober = Prober(health, "/nowhere.pem", LOOPBACK, every=0.01)
    prober.watch([a_remote(1, secret=None, host="nowhere.invalid")], {})
    task = asyncio.create_task(prober.run())
    try:
        await until(lambda: prober._targets["remote/shop/b/far"].wait > 0.01, "a probe")
    finally:
        task.cancel()
    assert health.reason("shop/b", "far") == "EndpointNotAllowed"


async def test_an_endpoint_that_stays_down_is_asked_less_and_less_often() -> None:
    health = EndpointHealth(RouterMetrics())
    prober = Prober(health, "/nowhere.pem", LOOPBACK, every=0.01)
    prober.watch([a_remote(1, secret=None)], {})
    task = asyncio.create_task(prober.run())
    try:
        await until(lambda: prober._targets["remote/shop/b/far"].wait >= 0.16, "a longer wait")
    finally:
        task.cancel()
