"""Hostile framing: lengths, chunks, smuggling, versions, hosts, and what is no HTTP at all."""

from __future__ import annotations

import random

from tests.hostile.wire import GOOD, Made, dumps, http, plain


def lengths(chance: random.Random) -> Made:
    body = dumps(GOOD)
    framing = chance.choice((
        b"content-length: -1", b"content-length: 1e3", b"content-length: 99999999999999999999999", b"content-length: 5\r\ncontent-length: 7",
        b"content-length: 0x10", b"content-length: +5", b"content-length: 5, 5", b"content-length:", b"content-length: 5 5", b"content-length: \xd9\xa3",
    ))  # fmt: skip
    return "framing", http(body, framing=framing), True


def too_long(chance: random.Random) -> Made:
    return "framing", http(dumps(GOOD), framing=b"content-length: %d" % (len(dumps(GOOD)) + chance.choice((1, 500)))), True


def chunks(chance: random.Random) -> Made:
    body = dumps(GOOD)
    size = b"%x" % len(body)
    wire = chance.choice((
        b"zz\r\n" + body, b"-5\r\n" + body, b"ffffffffffffffffff\r\n" + body, size + b"\n" + body + b"\n0\n\n", size + b"\r\n" + body,
        size + b"\r\n" + body + b"XX0\r\n\r\n", b"\r\n\r\n", size + b" ;x\r\n" + body + b"\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n",
    ))  # fmt: skip
    return "framing", http(wire, framing=b"transfer-encoding: chunked"), True


def good_chunks(chance: random.Random) -> Made:
    body = dumps(GOOD)
    wire, at = b"", 0
    while at < len(body):
        take = chance.choice((1, 2, 7, 30))
        piece = body[at : at + take]
        extension = chance.choice((b"", b";x=y", b';q="a"'))
        wire += b"%x%s\r\n%s\r\n" % (len(piece), extension, piece)
        at += take
    trailer = chance.choice((b"", b"x-modelfleet-caller: f0rged\r\n", b"content-length: 5\r\n", b"x-envoy-internal: f0rged\r\n"))
    return "good", http(wire + b"0\r\n" + trailer + b"\r\n", framing=b"transfer-encoding: chunked"), False


def smuggling(chance: random.Random) -> Made:
    inner = http(dumps(GOOD), headers=plain(b"x-modelfleet-caller: f0rged"))
    both = chance.choice((
        b"content-length: 6\r\ntransfer-encoding: chunked", b"transfer-encoding: chunked\r\ncontent-length: 6",
        b"transfer-encoding: chunked\r\ntransfer-encoding: identity", b"transfer-encoding: xchunked", b"transfer-encoding: chunked, identity",
        b"transfer-encoding: gzip, chunked", b"transfer-encoding: \x0bchunked",
    ))  # fmt: skip
    return "framing", http(b"0\r\n\r\n" + inner, framing=both), True


def versions(chance: random.Random) -> Made:
    version = chance.choice((b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"http/1.1", b"HTTP/1.1 ", b"", b"HTTP", b"HTP/1.1", b"HTTP/1.1.1"))
    return "framing", http(dumps(GOOD), version=version), False


def hosts(chance: random.Random) -> Made:
    lines = chance.choice((
        [], [b"host: a", b"host: b"], [b"host:"], [b"host: evil/../x"], [b"host: a b"], [b"host: [::1"], [b"host: " + b"h" * 3000], [b"host: \xff"],
        [b"host: a:99999"],
    ))  # fmt: skip
    return "framing", http(dumps(GOOD), headers=[*lines, b"content-type: application/json"]), False


def noise(chance: random.Random) -> Made:
    raw = chance.choice((
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(200), chance.randbytes(chance.choice((1, 50, 5000))), b"\r\n" * 50, b"\x00" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + chance.randbytes(60), b"GET", b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\n", b"EHLO x\r\n",
        b"*1\r\n$4\r\nPING\r\n",
    ))  # fmt: skip
    return "framing", raw, True
