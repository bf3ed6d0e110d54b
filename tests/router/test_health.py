"""Probes of remote endpoints: the words for what they find, the key they carry, and that it is never told."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.support.envoy import Reply, Request, Upstream, until

from modelfleet.core.routing.ir import RemoteCluster, SecretRef
from modelfleet.router.health import EndpointHealth, Prober, probe_outcome
from modelfleet.router.metrics import RouterMetrics

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


def a_remote(port: int, secret: SecretRef | None = REF) -> RemoteCluster:
    return RemoteCluster(
        "remote/shop/b/far", "shop/b", "far", "127.0.0.1", port, tls=False, path_prefix="/api/v1", upstream_model="x", concurrency=1, secret=secret
    )


async def test_an_endpoint_is_asked_with_its_key_again_when_the_key_changes_and_again_while_it_is_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    keys: list[str | None] = []

    def reply(request: Request) -> Reply:
        assert (request.method, request.path) == ("GET", "/api/v1/models")
        keys.append(request.headers.get("authorization"))
        return Reply(status=200 if keys[-1] == "Bearer right" else 401)

    upstream = await Upstream(reply).start()
    health = EndpointHealth(RouterMetrics())
    prober = Prober(health, "/nowhere.pem", every=0.05)
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


async def test_an_endpoint_that_stays_down_is_asked_less_and_less_often() -> None:
    health = EndpointHealth(RouterMetrics())
    prober = Prober(health, "/nowhere.pem", every=0.01)
    prober.watch([a_remote(1, secret=None)], {})
    task = asyncio.create_task(prober.run())
    try:
        await until(lambda: prober._targets["remote/shop/b/far"].wait >= 0.16, "a longer wait")
    finally:
        task.cancel()
