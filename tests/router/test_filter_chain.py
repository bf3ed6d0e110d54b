"""The path of one request inside the real Envoy: what is read, stripped, refused, and what happens without a decider."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.envoy import Bench, Reply, Upstream, a_bench, a_policy, a_pool, ask, completion, decision, remote, stream

from modelfleet.core.routing.ir import Address, RoutingWorld, SecretRef
from modelfleet.router.tokens import NAMESPACE, token_counts


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = await a_bench(max_body_bytes=256 * 1024)
    yield made
    await made.close()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    server = await Upstream().start()
    yield server
    await server.stop()


def a_world(upstream: Upstream, **policy) -> RoutingWorld:
    return RoutingWorld(
        pools=(a_pool("small"), a_pool("large")),
        policies=(a_policy("p", "small", "large", **policy),),
        addresses={"shop/small": (Address("127.0.0.1", upstream.port, "gpu"),)},
    )


async def test_every_shape_of_a_request_gets_its_answer(bench: Bench, upstream: Upstream) -> None:
    await bench.serve(a_world(upstream, entrypoints=["auto", "team/fast-1.5"]))
    body = {"model": "auto", "messages": []}
    for how, sent, status, code in (
        ("plain", body, 200, None),
        ("a name with a slash", {"model": "team/fast-1.5"}, 200, None),
        ("unknown", {"model": "nix"}, 404, "model_not_found"),
        ("no model", {"messages": []}, 400, "model_required"),
        ("empty object", {}, 400, "model_required"),
        ("not JSON", b"{nope", 400, "malformed_body"),
        ("no body", None, 400, "model_required"),
    ):
        answer = await bench.ask(sent)
        assert (how, answer.status) == (how, status)
        assert code is None or answer.json["error"]["code"] == code, how
    for content_type, status in (("application/json; charset=utf-8", 200), ("Application/JSON", 200), ("", 200), ("text/plain", 415)):
        answer = await bench.ask(body, headers={"content-type": content_type})
        assert (content_type, answer.status) == (content_type, status)
    for path, method, status in (("/v1/models", "GET", 200), ("/v1/nowhere", "GET", 400), ("/metrics", "GET", 404), ("/v1%2fmodels", "GET", 400)):
        assert (path, (await bench.ask(None, path=path, method=method)).status) == (path, status)
    assert [m["id"] for m in (await bench.ask(None, path="/v1/models", method="GET")).json["data"]] == ["auto", "team/fast-1.5"]
    assert "auto, team/fast-1.5" in (await bench.chat("nix")).json["error"]["message"]


async def test_a_body_above_the_limit_is_413_in_openais_words_and_one_below_it_arrives_whole(bench: Bench, upstream: Upstream) -> None:
    await bench.serve(a_world(upstream))
    await bench.decide(lambda _: _ok(["small"]))
    for text in ("application/json", "text/plain"):
        answer = await bench.ask({"model": "auto", "text": "x" * 300_000}, headers={"content-type": text})
        wanted = (413, "request_too_large") if text == "application/json" else (415, "unsupported_content_type")
        assert (answer.status, answer.json["error"]["code"]) == wanted
    answer = await bench.ask({"model": "auto", "text": "x" * 240_000})
    assert answer.status == 200
    assert upstream.requests[-1].json == {"model": "small-model", "text": "x" * 240_000}
    assert len(bench.decider.asked[-1].attributes.request.http.raw_body) > 240_000


async def _ok(groups: list[str], **more) -> object:
    return decision(groups, **more)


async def test_reserved_headers_and_keys_of_the_client_go_no_further(bench: Bench, upstream: Upstream) -> None:
    await bench.serve(a_world(upstream, refuse=True))
    await bench.decide(lambda _: _ok(["small"]))
    forged = {
        "authorization": "Bearer client", "x-api-key": "client", "cookie": "a=b", "accept-encoding": "gzip", "x-forwarded-for": "6.6.6.6",
        "x-envoy-auth-failure-mode-allowed": "true", "x-envoy-max-retries": "9", "x-envoy-retry-on": "5xx", "x-envoy-upstream-rq-timeout-ms": "1",
        "x-modelfleet-model-span": "0,5", "x-modelfleet-grant": "me", "x-modelfleet-sessionx": "1", "x-modelfleet-s": "1", "X-Modelfleet-Session": "s-1",
        "x-modelfleet-caller": "boss", "x-modelfleet-grants": "me", "x-modelfleet-": "1", "x-app": "shop",
    }  # fmt: skip
    answer = await bench.ask({"model": "auto"}, headers=forged)
    assert answer.status == 200
    assert answer.headers["x-modelfleet-decision"] == "id=d1;why=Test"
    assert set(upstream.requests[-1].headers) == {"host", "content-type", "content-length", "x-app", "x-forwarded-proto", "x-request-id"}
    heard = bench.decider.asked[-1].attributes.request.http.headers
    assert {n for n in heard if n.startswith(("x-modelfleet", "x-envoy", "auth", "cook", "x-api"))} == {
        "x-modelfleet-session", "x-modelfleet-grant", "x-envoy-auth-partial-body", "x-envoy-external-address",
    }  # fmt: skip


@pytest.fixture
async def impatient() -> AsyncIterator[Bench]:
    made = await a_bench(decide_timeout=2.0)
    yield made
    await made.close()


async def test_without_a_decider_static_routes_serve_and_strict_ones_refuse(impatient: Bench, upstream: Upstream) -> None:
    bench, world = impatient, a_world(upstream)
    strict = a_policy("strict", "small", entrypoints=["strict"], refuse=True)
    await bench.serve(RoutingWorld(world.pools, (*world.policies, strict), world.addresses))

    async def lost() -> None:
        served, refused = await bench.chat("auto"), await bench.chat("strict")
        assert (served.status, served.headers["x-modelfleet-served"], served.headers["x-modelfleet-attempts"]) == (200, "shop/small/gpu", "1")
        assert served.headers["x-modelfleet-decision"] == "policy=shop/p/1;chain=small,large,large#2;why=DeciderLost"
        assert (refused.status, refused.json["error"]["code"]) == (503, "decider_lost")

    await lost()
    decider = await bench.decide(lambda _: _ok(["small"]))
    for _ in range(900):
        if (answer := await bench.chat("strict")).status == 200:
            break
        await asyncio.sleep(0.1)
    assert answer.status == 200
    hung = asyncio.Event()
    decider.decide = lambda _: _hang(hung)
    await lost()
    hung.set()
    await decider.stop()
    await lost()
    bench.decider = None


async def _hang(until_set: asyncio.Event) -> object:
    await until_set.wait()
    return decision(["large"])


async def test_the_decider_reorders_named_groups_and_nothing_else(bench: Bench, upstream: Upstream) -> None:
    other = await Upstream().start()
    hidden = await Upstream().start()
    world = RoutingWorld(
        pools=(a_pool("small"), a_pool("large"), a_pool("hidden")),
        policies=(a_policy("p", "small", "large"), a_policy("q", "hidden", entrypoints=["hidden"])),
        addresses={f"shop/{n}": (Address("127.0.0.1", u.port, "gpu"),) for n, u in (("small", upstream), ("large", other), ("hidden", hidden))},
    )
    await bench.serve(world)
    answers = [["large"], ["pods/shop/hidden"], ["hidden"]]
    await bench.decide(lambda _: _ok(answers[0]))
    assert (await bench.chat("auto")).headers["x-modelfleet-served"] == "shop/large/gpu"
    for wrong in answers[1:]:
        answers[0] = wrong
        assert (await bench.chat("auto")).headers["x-modelfleet-served"] == "shop/small/gpu"
    assert not hidden.requests
    asked = bench.decider.asked[-1].attributes
    assert dict(asked.context_extensions) == {"policy": "shop/p", "entrypoint": "auto", "version": bench.ads.acked["shop/p"]}
    assert asked.metadata_context.filter_metadata["modelfleet.request"]["model"] == "auto"
    await other.stop()
    await hidden.stop()


async def test_a_refusal_of_the_decider_reaches_the_client_as_written(bench: Bench, upstream: Upstream) -> None:
    await bench.serve(a_world(upstream, refuse=True))

    async def deny(_request) -> object:
        answer = decision([])
        answer.Clear()
        answer.status.code = 7
        answer.denied_response.status.code = 403
        answer.denied_response.body = '{"error": {"code": "no"}}'
        answer.denied_response.headers.add().header.key = "content-type"
        answer.denied_response.headers[0].header.value = "application/json"
        return answer

    await bench.decide(deny)
    answer = await bench.chat("auto")
    assert (answer.status, answer.json, answer.headers["content-type"]) == (403, {"error": {"code": "no"}}, "application/json")


@pytest.mark.parametrize("decided", [True, False])
async def test_the_top_level_model_is_renamed_and_nested_ones_survive(bench: Bench, upstream: Upstream, decided: bool) -> None:
    await bench.serve(a_world(upstream))
    spans = {"now": ""}
    if decided:
        await bench.decide(lambda _: _ok(["small"], span=spans["now"]))
    nested = {"messages": [{"model": "auto", "content": 'say "model":"auto" {[,'}], "metadata": {"model": "auto"}}
    for body in (
        json.dumps({**nested, "model": "auto"}),
        json.dumps({"model": "auto", **nested}, indent=1),
        '{"a": "\\\\", "b\\"": {"model":"auto"}, "c": ["model", "auto"], "model" : "auto"}',
        '{"z":"model","model":"auto"}',
    ):
        at = body.rfind('"auto"') if body.rstrip().endswith('"auto"}') else body.find('"auto"')
        spans["now"] = f"{at},{at + 6}" if decided else ""
        await bench.ask(body.encode())
        assert upstream.requests[-1].json == json.loads(body) | {"model": "small-model"}
    spans["now"] = "3,9"
    await bench.ask(b'{"x": 1, "model": "auto"}')
    assert upstream.requests[-1].json == {"x": 1, "model": "small-model"}


async def test_streams_report_usage_whether_or_not_the_client_asked(bench: Bench, upstream: Upstream) -> None:
    await bench.serve(a_world(upstream))
    upstream.reply = lambda r: stream(usage=(r.json.get("stream_options") or {}).get("include_usage", False)) if r.json.get("stream") else completion()
    for options in (None, {}, {"include_usage": True}, {"other": 1}):
        more = {} if options is None else {"stream_options": options}
        answer = await bench.chat("auto", stream=True, **more)
        assert answer.complete
        assert answer.body.endswith(b"[DONE]\n\n")
        assert upstream.requests[-1].json["stream_options"] == (options or {}) | {"include_usage": True}
    await bench.chat("auto")
    assert "stream_options" not in upstream.requests[-1].json
    counts = [token_counts(e.common_properties.metadata.typed_filter_metadata[NAMESPACE].value) for e in await bench.logged(5)]
    assert [(c.input, c.output, c.cached_input, c.complete) for c in counts] == [(21, 3, 0, True)] * 4 + [(11, 7, 3, True)]
    tags = bench.logs.entries[-1].common_properties.custom_tags
    assert dict(tags) == {"served": "shop/small/gpu", "policy": "shop/p", "entrypoint": "auto"}


async def test_a_remote_gets_its_own_key_path_and_host_and_no_other_upstream_does(bench: Bench, upstream: Upstream) -> None:
    """Attempts share their request headers, so a key that was sent to one endpoint is one retry away from the next."""
    second, pods = await Upstream(lambda _: Reply(429)).start(), upstream
    first = await Upstream(lambda _: Reply(401, b'{"error": "bad key sk-secret-one"}')).start()
    bench.secrets[SecretRef("shop", "one", "k")] = ("1", b"sk-secret-one\n")
    bench.secrets[SecretRef("shop", "two", "k")] = ("1", b"sk-secret-two")
    world = RoutingWorld(
        pools=(
            a_pool("one", remote("r1", f"http://127.0.0.1:{first.port}/deep/v9/", secret=("one", "k"))),
            a_pool("two", remote("r2", f"http://localhost:{second.port}", model="other", secret=("two", "k"))),
            a_pool("small"),
        ),
        policies=(a_policy("p", "one", "two", "small"),),
        addresses={"shop/small": (Address("127.0.0.1", pods.port, "gpu"),)},
    )
    await bench.serve(world)
    answer = await bench.ask({"model": "auto", "text": "t"}, headers={"authorization": "Bearer client"})
    assert (answer.status, answer.headers["x-modelfleet-served"], answer.headers["x-modelfleet-attempts"]) == (200, "shop/small/gpu", "3")
    last = [u.requests[-1] for u in (first, second, pods)]
    seen = [(r.headers.get("authorization"), r.path, r.headers["host"], r.json["model"]) for r in last]
    assert seen == [
        ("Bearer sk-secret-one", "/deep/v9/chat/completions", f"127.0.0.1:{first.port}", "remote-model"),
        ("Bearer sk-secret-two", "/v1/chat/completions", f"localhost:{second.port}", "other"),
        (None, "/v1/chat/completions", "gateway", "small-model"),
    ]
    entry = (await bench.logged(1))[0]
    assert entry.common_properties.metadata.filter_metadata["modelfleet.upstream"]["key_refused"] == "shop/one/r1"
    bench.secrets[SecretRef("shop", "one", "k")] = ("2", b"rotated")
    first.reply = lambda _: completion()
    await bench.serve(world)
    for _ in range(1800):
        await bench.chat("auto")
        if first.requests[-1].headers["authorization"] == "Bearer rotated":
            break
        await asyncio.sleep(0.05)
    assert first.requests[-1].headers["authorization"] == "Bearer rotated"
    assert "sk-secret" not in bench.envoy.log()
    for server in (first, second):
        await server.stop()


async def test_a_refused_key_of_the_last_candidate_is_ours_to_explain(bench: Bench, upstream: Upstream) -> None:
    upstream.reply = lambda _: Reply(403, b"your key sk-secret is bad")
    await bench.serve(RoutingWorld(pools=(a_pool("one", remote("r", f"http://127.0.0.1:{upstream.port}")),), policies=(a_policy("p", "one"),)))
    answer = await bench.chat("auto")
    assert (answer.status, answer.json["error"]["code"]) == (502, "key_refused")
    assert b"sk-secret" not in answer.body
    assert "x-modelfleet-key-refused" not in answer.headers
    assert len(upstream.requests) == 3


async def test_compressed_and_chunked_requests_are_handled(bench: Bench, upstream: Upstream) -> None:
    await bench.serve(a_world(upstream))
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n")
    for part in (b'{"model"', b': "au', b'to"}'):
        writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"200"
    writer.close()
    assert upstream.requests[-1].json == {"model": "small-model"}
    assert (await ask(bench.port, {"model": "auto"}, path="/v1/embeddings?x=1")).status == 200
    assert upstream.requests[-1].path == "/v1/embeddings?x=1"


async def test_a_stream_is_passed_on_as_it_comes(bench: Bench, upstream: Upstream) -> None:
    read = asyncio.Event()
    upstream.reply = lambda _: Reply(headers={"content-type": "text/event-stream"}, chunks=[b"data: {}\n\n", read, b"data: [DONE]\n\n"])
    await bench.serve(a_world(upstream))
    await bench.decide(lambda _: _ok(["small"]))
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    body = b'{"model": "auto", "stream": true}'
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\n")
    writer.write(f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
    await asyncio.wait_for(reader.readuntil(b"data: {}"), 90)
    read.set()
    await asyncio.wait_for(reader.readuntil(b"[DONE]"), 90)
    writer.close()


async def test_eight_megabytes_pass_whole_and_the_decider_sees_their_head(upstream: Upstream) -> None:
    bench = await a_bench()
    try:
        await bench.serve(a_world(upstream))
        await bench.decide(lambda _: _ok(["small"]))
        answer = await bench.ask({"model": "auto", "text": "x" * 8_300_000})
        assert (answer.status, answer.headers["x-modelfleet-decision"]) == (200, "id=d1;why=Test")
        asked = bench.decider.asked[-1].attributes.request.http
        assert (len(asked.raw_body), asked.headers["x-envoy-auth-partial-body"]) == (1024 * 1024, "true")
        assert len(upstream.requests[-1].json["text"]) == 8_300_000
        assert upstream.requests[-1].json["model"] == "small-model"
        assert (await bench.ask({"model": "auto", "text": "x" * 8_400_000})).status == 413
    finally:
        await bench.close()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[ssl.SSLContext, str]:
    """A server context for ``localhost``, and the file that vouches for it."""
    key, cert = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert]
    subprocess.run([*made, "-subj", "/CN=x", "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, cert


async def test_endpoints_over_tls_must_be_who_they_say(upstream: Upstream, certificate: tuple[ssl.SSLContext, str]) -> None:
    context, authority = certificate
    far = await Upstream(tls=context).start()
    bench = await a_bench(ca_file=authority)
    try:
        for host, served in (("localhost", "shop/far/r"), ("127.0.0.1", "shop/small/gpu")):
            pools = (a_pool("far", remote("r", f"https://{host}:{far.port}/v1")), a_pool("small"))
            addresses = {"shop/small": (Address("127.0.0.1", upstream.port, "gpu"),)}
            await bench.serve(RoutingWorld(pools, (a_policy("p", "far", "small"),), addresses))
            answer = await bench.chat("auto")
            assert (answer.status, answer.headers["x-modelfleet-served"]) == (200, served)
        assert len(far.requests) == 1
    finally:
        await bench.close()
        await far.stop()
