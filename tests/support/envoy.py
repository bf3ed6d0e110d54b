"""The real Envoy under test, and the small servers around it: upstreams with a script, a decider, a receiver of access logs."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import envoy
import grpc
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf import json_format

from modelfleet.api.v1alpha1 import ModelPool, RoutingPolicy
from modelfleet.core.routing.bootstrap import bootstrap_text
from modelfleet.core.routing.compile import compile_routes
from modelfleet.core.routing.ir import RoutingPlan, RoutingWorld, SecretRef
from modelfleet.core.routing.xds import GatewaySettings
from modelfleet.router.ads import AdsServer

BINARY = Path(envoy.__file__).parent / "_bin" / "envoy"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Envoy:
    """One Envoy process on a bootstrap of ours; its log is kept in the run directory."""

    def __init__(self, run_dir: str) -> None:
        self.run_dir = run_dir
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config, log = Path(self.run_dir) / "bootstrap.json", Path(self.run_dir) / "envoy.log"
        config.write_text(bootstrap_text("gw-0", self.run_dir))
        command = [str(BINARY), "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning", "--log-path", str(log)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def log(self) -> str:
        return (Path(self.run_dir) / "envoy.log").read_text()

    async def admin(self, path: str) -> str:
        return await asyncio.to_thread(self._admin, path)

    def _admin(self, path: str) -> str:
        connection = http.client.HTTPConnection("admin")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(f"{self.run_dir}/admin.sock")
        connection.request("GET", path)
        return connection.getresponse().read().decode()


def validate(config: dict[str, Any]) -> str:
    """What Envoy says of a configuration: empty if it is fine."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        command = [str(BINARY), "--mode", "validate", "-c", str(path), "--log-level", "error"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        return "" if done.returncode == 0 else done.stdout + done.stderr


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """What an upstream sends. ``after``: seconds before the status line; ``chunks``: streamed (a number: seconds to wait, an event: until it is set).

    ``cut``: the connection ends in the middle.
    """

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    after: float = 0.0
    chunks: list[bytes | float | asyncio.Event] | None = None
    cut: bool = False
    reset: bool = False


def completion(model: str = "m", prompt: int = 11, made: int = 7, cached: int = 3) -> Reply:
    usage = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made, "prompt_tokens_details": {"cached_tokens": cached}}
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": usage}
    return Reply(body=json.dumps(body).encode())


def stream(words: int = 3, pause: float = 0.0, usage: bool = True) -> Reply:
    chunks: list[bytes | float | asyncio.Event] = []
    for i in range(words):
        choice = {"index": 0, "delta": {"content": f"w{i}"}, "finish_reason": None}
        chunks.append(_sse({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}))
        chunks.append(pause)
    if usage:
        told = {"prompt_tokens": 21, "completion_tokens": words, "total_tokens": 21 + words}
        chunks.append(_sse({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": told}))
    chunks.append(b"data: [DONE]\n\n")
    return Reply(headers={"content-type": "text/event-stream"}, chunks=chunks)


def _sse(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


class Upstream:
    """An HTTP/1.1 server on loopback whose replies are a function of the request."""

    def __init__(self, reply: Callable[[Request], Reply] | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.reply = reply or (lambda _: completion())
        self.requests: list[Request] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> Upstream:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=64 * 1024 * 1024, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                if not await self._answer(self.reply(request), writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, reply: Reply, writer: asyncio.StreamWriter) -> bool:
        if reply.after:
            await asyncio.sleep(reply.after)
        if reply.reset:
            writer.transport.abort()
            return False
        head = f"HTTP/1.1 {reply.status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in reply.headers.items())
        if reply.chunks is None:
            writer.write(head.encode() + f"content-length: {len(reply.body)}\r\n\r\n".encode() + reply.body)
            await writer.drain()
            return True
        writer.write(head.encode() + b"transfer-encoding: chunked\r\n\r\n")
        for chunk in reply.chunks:
            if isinstance(chunk, asyncio.Event):
                await chunk.wait()
                continue
            if isinstance(chunk, float):
                await asyncio.sleep(chunk)
                continue
            writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            await writer.drain()
        if reply.cut:
            writer.transport.abort()
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


async def _read(reader: asyncio.StreamReader) -> Request | None:
    head = await reader.readuntil(b"\r\n\r\n")
    if not head:
        return None
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    body = b""
    if headers.get("transfer-encoding") == "chunked":
        while size := int((await reader.readline()).strip(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    elif length := int(headers.get("content-length", "0")):
        body = await reader.readexactly(length)
    return Request(method, path, headers, body)


@dataclass
class Answer:
    """One whole response, as a client saw it. ``complete`` False: the connection ended in the middle."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool = True

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(port: int, body: Any, *, path: str = "/v1/chat/completions", method: str = "POST", headers: dict[str, str] | None = None) -> Answer:
    """One request on a connection of its own. ``body``: bytes as they are, None for none, anything else as JSON."""
    sent = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    given = {"host": "gateway", "content-type": "application/json", "connection": "close"} | (headers or {})
    lines = [f"{k}: {v}" for k, v in given.items() if v]
    if sent or method == "POST":
        lines.append(f"content-length: {len(sent)}")
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=64 * 1024 * 1024)
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\n".encode() + "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + sent)
        with suppress(ConnectionError):
            await writer.drain()
        return await _answer(reader)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    body, complete = b"", True
    try:
        if headers.get("transfer-encoding") == "chunked":
            while size := int((await reader.readline()).strip() or b"-1", 16):
                if size < 0:
                    raise ConnectionError
                body += (await reader.readexactly(size + 2))[:-2]
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
    except (ConnectionError, asyncio.IncompleteReadError):
        complete = False
    return Answer(int(first.split(" ")[1]), headers, body, complete)


Decide = Callable[[Any], Awaitable[Any]]


def decision(groups: list[str], *, span: str = "", decision_id: str = "d1", **metadata: Any) -> Any:
    """An OK answer in the shape of the contract (docstring of ``core/routing/xds``)."""
    told = {"priority_groups": [{"name": g} for g in groups], "id": decision_id, "span": span, **metadata}
    return json_format.ParseDict(
        {
            "status": {"code": 0},
            "dynamic_metadata": told,
            "ok_response": {
                "headers": [{"header": {"key": "x-modelfleet-model-span", "value": span or "0,0"}}],
                "response_headers_to_add": [
                    {"header": {"key": "x-modelfleet-decision", "value": f"id={decision_id};why=Test"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
                ],
            },
        },
        external_auth_pb2.CheckResponse(),
    )


class Decider:
    """A stand-in for the decider: ``decide`` is an async function from CheckRequest to CheckResponse."""

    def __init__(self, run_dir: str, decide: Decide) -> None:
        self.run_dir, self.decide = run_dir, decide
        self.asked: list[Any] = []
        self._server: Any = None

    async def start(self) -> Decider:
        async def check(request: Any, _context: Any) -> Any:
            self.asked.append(request)
            return await self.decide(request)

        handler = grpc.unary_unary_rpc_method_handler(
            check,
            request_deserializer=external_auth_pb2.CheckRequest.FromString,
            response_serializer=external_auth_pb2.CheckResponse.SerializeToString,
        )
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", {"Check": handler}),))
        Path(f"{self.run_dir}/authz.sock").unlink(missing_ok=True)
        self._server.add_insecure_port(f"unix:{self.run_dir}/authz.sock")
        await self._server.start()
        return self

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None


class AccessLogs:
    """Collects HTTP access log entries; ``register`` hangs it onto the ADS server."""

    def __init__(self) -> None:
        self.entries: list[Any] = []

    def register(self, server: Any) -> None:
        async def log(requests: Any, _context: Any) -> Any:
            async for request in requests:
                self.entries += request.http_logs.log_entry
            return als_pb2.StreamAccessLogsResponse()

        handler = grpc.stream_unary_rpc_method_handler(
            log, request_deserializer=als_pb2.StreamAccessLogsMessage.FromString, response_serializer=als_pb2.StreamAccessLogsResponse.SerializeToString
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("envoy.service.accesslog.v3.AccessLogService", {"StreamAccessLogs": handler}),))


async def until(true: Callable[[], Any], what: str, seconds: float = 90.0) -> None:
    """Wait for something that will come; the limit only ends a test that has failed."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"never came: {what}")
        await asyncio.sleep(0.02)


def short_dir() -> str:
    """A directory for Unix sockets: their paths have a limit of about a hundred bytes."""
    return tempfile.mkdtemp(prefix="mf-", dir="/tmp")


def remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def a_pool(
    name: str, *flavors: dict[str, Any], namespace: str = "shop", model: str = "", replicas: int = 1, price: list[dict[str, str]] | None = None
) -> ModelPool:
    raw = {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "ModelPool",
        "metadata": {"name": name, "namespace": namespace, "generation": 1},
        "spec": {
            "model": {"name": model or f"{name}-model", "source": "hf://o/r"},
            "engine": {"type": "LlamaCpp"},
            "flavors": list(flavors) or [pods()],
            "replicas": replicas,
        },
    }
    return ModelPool.model_validate(raw | ({"status": {"price": price}} if price else {}))


def pods(name: str = "gpu", *, tokens: int | None = None, concurrency: int | None = None) -> dict[str, Any]:
    capacity = {k: v for k, v in (("tokensPerSecond", tokens), ("concurrency", concurrency)) if v}
    return {"name": name, "acceleratorClass": "h100"} | ({"capacity": capacity} if capacity else {})


def remote(name: str, url: str, *, model: str = "remote-model", secret: tuple[str, str] | None = None, concurrency: int = 32) -> dict[str, Any]:
    endpoint: dict[str, Any] = {"url": url, "model": model, "concurrency": concurrency, "price": {"inputPerMillion": "1.5", "outputPerMillion": "6"}}
    if secret:
        endpoint["authSecretRef"] = {"name": secret[0], "key": secret[1]}
    return {"name": name, "endpoint": endpoint}


def a_policy(
    name: str, *pools: str, entrypoints: list[str] | None = None, chain: list[str] | None = None, namespace: str = "shop", **spec: Any
) -> RoutingPolicy:
    """``decided=False``: nothing in it depends on what a request says; else a rule that never matches keeps the decider."""
    created = spec.pop("created", "2026-01-01T00:00:00Z")
    if spec.pop("decided", True):
        spec["rules"] = [*spec.get("rules", ()), {"name": "huge", "match": {"inputTokens": {"min": 100_000_000}}}]
    refuse = {"onDeciderLoss": "Refuse"} if spec.pop("refuse", False) else {}
    return RoutingPolicy.model_validate(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "RoutingPolicy",
            "metadata": {"name": name, "namespace": namespace, "generation": 1, "creationTimestamp": created},
            "spec": {
                "entrypoints": [{"name": e} for e in entrypoints or ["auto"]],
                "candidates": [{"name": p, "poolRef": {"name": p}} for p in pools],
                "default": {"chain": chain or list(pools)} | refuse,
                **spec,
            },
        }
    )


@dataclass
class Bench:
    """A gateway without its pod: our ADS server, a real Envoy, access logs; a decider only if a test starts one."""

    settings: GatewaySettings
    ads: AdsServer
    envoy: Envoy
    logs: AccessLogs
    secrets: dict[SecretRef, tuple[str, bytes]] = field(default_factory=dict)
    decider: Decider | None = None

    @property
    def port(self) -> int:
        return self.settings.port

    async def serve(self, world: RoutingWorld, *, wait: bool = True) -> RoutingPlan:
        plan = compile_routes(replace(world, secrets=frozenset(self.secrets)))
        await self.ads.publish(plan, self.secrets)
        if wait:
            await until(lambda: self.ads.acked == {p.key: p.version for p in (*plan.policies, *plan.teams)}, f"ACK; rejected {self.ads.rejected}")
            await until(lambda: _listens(self.port), "a listener")
            await self.settled()
        return plan

    async def settled(self) -> None:
        """Envoy has taken up every endpoint it was sent."""
        await until(lambda: all(not s.waiting for s in self.ads._stream.types.values()), "answers to every push")

    async def decide(self, decide: Decide) -> Decider:
        self.decider = await Decider(self.settings.run_dir, decide).start()
        return self.decider

    async def ask(self, body: Any, **how: Any) -> Answer:
        return await ask(self.port, body, **how)

    async def chat(self, model: str, **more: Any) -> Answer:
        return await ask(self.port, {"model": model, "messages": [{"role": "user", "content": "hello"}], **more})

    async def logged(self, number: int) -> list[Any]:
        await until(lambda: len(self.logs.entries) >= number, f"{number} access log entries")
        return self.logs.entries

    async def close(self) -> None:
        if self.decider is not None:
            await self.decider.stop()
        self.envoy.kill()
        await self.ads.stop()
        remove(self.settings.run_dir)


def _listens(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


async def a_bench(*, grace: float = 30.0, start: bool = True, decide_timeout: float = 20.0, **settings: Any) -> Bench:
    """``decide_timeout`` in seconds: long by default, since what a busy machine makes of 50 ms is the question of no test here."""
    run_dir = short_dir()
    settings["decide_timeout"] = decide_timeout
    made = GatewaySettings(run_dir=run_dir, address="127.0.0.1", port=free_port(), sink_port=free_port(), **settings)
    bench = Bench(made, AdsServer(made, grace=grace), Envoy(run_dir), AccessLogs())
    await bench.ads.start(f"{run_dir}/ads.sock", bench.logs.register)
    if start:
        bench.envoy.start()
    return bench
