"""Hostile heads: forged headers of ours and of Envoy's, header injection, methods, paths, content types."""

from __future__ import annotations

import random

from tests.hostile.wire import GOOD, MARK, Made, dumps, http, plain

FORGED = (
    "x-modelfleet-decision", "x-modelfleet-served", "x-modelfleet-attempts", "x-modelfleet-model-span", "x-modelfleet-caller", "x-modelfleet-key-refused",
    "x-modelfleet-run", "x-modelfleet-role", "x-modelfleet-x", "X-ModelFleet-Caller", "x-modelfleet-", "x-modelfleet-g", "x-modelfleet-grantx",
    "x-modelfleet-sessionx", "x-envoy-retry-on", "x-envoy-max-retries", "x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-alt-stat-name", "x-envoy-original-path", "x-envoy-original-url", "x-envoy-auth-partial-body", "x-envoy-auth-failure-mode-allowed",
    "x-envoy-expected-rq-timeout-ms", "x-envoy-internal", "x-envoy-force-trace", "x-envoy-decorator-operation", "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-attempt-count", "X-Envoy-Retriable-Status-Codes", "x-envoy-retriable-header-names", "x-envoy-ip-tags", "x-envoy-downstream-service-cluster",
    "x-envoy-immediate-health-check-fail", "x-envoy-external-address", "x-envoy-peer-metadata", "X-ENVOY-ORIGINAL-HOST",
)  # fmt: skip
FORGED_VALUES = ("{}", "{}; why=Compiled", "1 {}", "true;{}", "small,boss {}", "0,5 {}", "{}" * 50, "demo/boss/far {}", "5xx,{}", "🙂{}")
SMUGGLED = (b"true", b"1", b"0", b"0,1", b"5xx", b"99", b"-1", b"small")
OTHERS = (
    b"x-forwarded-for: 127.0.0.1, 10.0.0.1", b"x-forwarded-proto: gopher", b"x-real-ip: 127.0.0.1", b"forwarded: for=127.0.0.1", b"x-request-id: ../../x y",
    b"x-request-id: " + b"r" * 500, b"x-request-id: a;policy=root;why=Compiled", b"authorization: Bearer f0rged", b"cookie: f0rged=1", b"api-key: f0rged",
    b"x-api-key: f0rged", b"proxy-authorization: Basic f0rged", b"te: trailers", b"x-forwarded-host: evil", b"x-http-method-override: DELETE",
    b"x-original-url: /admin", b"x-modelfleet-session: " + b"s" * 2000, b"accept-encoding: gzip, f0rged", b"origin: https://evil", b"via: 1.1 f0rged-proxy",
    b"max-forwards: 0", b"accept: text/html", b"traceparent: 00-zz-zz-00", b"b3: f0rged", b"user-agent: \xff\xfe", b"referer: \xf0\x9f\x92\xa5",
    b"priority: u=0", b"x-canary: 0",
)  # fmt: skip


def forged(chance: random.Random) -> Made:
    lines = []
    for name in chance.sample(FORGED, k=chance.choice((1, 1, 2, 6, 15))):
        value = chance.choice(FORGED_VALUES).format(*([MARK] * 60)).replace("{}", MARK).encode() if chance.random() < 0.6 else chance.choice(SMUGGLED)
        lines += [name.encode() + b": " + value] * chance.choice((1, 1, 2))
    return "good", http(dumps(GOOD), headers=plain(*lines)), False


def forged_grant(chance: random.Random) -> Made:
    value = chance.choice((b"f0rged", b"", b"a.b.c", b"e30.e30.e30", b"v1.AAAA.BBBB", b"f0rged" * 500, b"\xff\xfe", b"{}", b"Bearer f0rged"))
    model = chance.choice(("pool:demo/small", "policy:demo/assistant", "pool:nope/nope", "pool:../x"))
    return "refused", http(dumps({**GOOD, "model": model}), headers=plain(b"x-modelfleet-grant: " + value)), False


def strangers(chance: random.Random) -> Made:
    return "good", http(dumps(GOOD), headers=plain(*chance.sample(OTHERS, k=chance.choice((1, 2, 5))))), False


def injected(chance: random.Random) -> Made:
    lines = (
        b"x: a\r\n b: folded", b"x: a\rx-modelfleet-caller: f0rged", b"x: a\nx-modelfleet-caller: f0rged", b"x: a\x00b", b"x y: z", b"nocolon", b": empty",
        b"x:\x0bvt", b"x\t: tab", b"x-modelfleet-caller : f0rged", b"x_modelfleet_caller: f0rged", b"x-modelfleet_caller: f0rged",
        b"x-envoy_internal: f0rged", b"\x00: x", b"x-\xffmodelfleet: f0rged", b"transfer-encoding : chunked", b"content_length: 5",
    )  # fmt: skip
    return "framing", http(dumps(GOOD), headers=plain(chance.choice(lines))), False


def too_many_headers(chance: random.Random) -> Made:
    many = chance.choice(([b"x-%d: y" % i for i in range(300)], [b"x-big: " + b"y" * 100_000], [b"x" * 70_000 + b": y"]))
    return "framing", http(dumps(GOOD), headers=plain(*many)), False


# --- methods, paths, types ---


def methods(chance: random.Random) -> Made:
    method = chance.choice((b"GET", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"PROPFIND", b"SUBSCRIBE", b"MKCOL", b"SEARCH"))
    return "any", http(b"" if chance.random() < 0.5 else dumps(GOOD), method=method), False


def odd_methods(chance: random.Random) -> Made:
    method = chance.choice((b"post", b"P", b"", b"POST\x00", b"CONNECT", b"\xff", b"PO ST", b"X" * 5000, b"NOPE", b"get"))
    return "framing", http(dumps(GOOD), method=method), False


def paths(chance: random.Random) -> Made:
    path = chance.choice((
        b"/", b"/v1", b"/v1/", b"/admin", b"/config_dump", b"/quitquitquit", b"/metrics", b"/explain?id=1", b"/healthz", b"/v1/nope",
        b"/v2/chat/completions", b"/v1/models/", b"/v1/models?x=" + b"y" * 3000, b"/v1/chat/completions/", b"/v1/chat/completions/../../../admin",
        b"//v1//chat//completions", b"/v1/chat%2fcompletions", b"/v1/%2e%2e/%2e%2e/etc/passwd", b"/v1/chat/completions%00", b"/v1/chat/completions;x=1",
        b"/V1/CHAT/COMPLETIONS", b"/v1/chat/completions?model=nope#x", b"/%ff%fe", b"/v1/embeddings", b"/v1/completions", b"/v1/files", b"/.git/config",
        b"/v1/chat/completions?" + b"a=b&" * 400, b"/v1\\chat\\completions", b"/" + b"a/" * 2000,
    ))  # fmt: skip
    return "any", http(dumps(GOOD), path=path), False


def odd_paths(chance: random.Random) -> Made:
    path = chance.choice(
        (
            b"*",
            b"",
            b"v1/chat/completions",
            b"http://",
            b"http://gateway:99999999/v1",
            b"/a b",
            b"/\x00",
            b"/\xff",
            b"https://evil/v1/chat/completions",
            b"/" + b"x" * 90_000,
        )
    )
    return "framing", http(dumps(GOOD), path=path), False


def content_types(chance: random.Random) -> Made:
    kind = chance.choice((
        b"text/plain", b"", b"multipart/form-data; boundary=x", b"application/x-www-form-urlencoded", b"application/json; charset=utf-16",
        b"application/jsonx", b"json", b"application/json, text/plain", b"APPLICATION/JSON", b"application/json;;;", b"a" * 3000, b"application/xml",
        b"application/grpc", b"application/octet-stream",
    ))  # fmt: skip
    return "any", http(dumps(GOOD), headers=[b"host: gateway", b"content-type: " + kind]), False


def no_content_type(chance: random.Random) -> Made:
    return "any", http(dumps(GOOD), headers=[b"host: gateway"]), False


def encodings(chance: random.Random) -> Made:
    kind = chance.choice((b"gzip", b"br", b"deflate, gzip", b"nope", b"identity", b"zstd"))
    body = chance.choice((dumps(GOOD), b"\x1f\x8b\x08\x00garbage", chance.randbytes(100)))
    return "any", http(body, headers=plain(b"content-encoding: " + kind)), False
