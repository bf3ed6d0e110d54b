"""One gateway, whole: a real API server, the router as its own process, the real Envoy, and upstreams that report what they used."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.apiserver import ApiServer
from tests.support.envoy import Answer, Envoy, Reply, Request, Upstream, ask, completion, free_port, remove, short_dir, stream, until

ADDRESS = f"198.18.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"
"""On the loopback interface while a test runs, this process's own: the API server refuses 127.0.0.1 in an EndpointSlice."""
KEY = "sk-right-5c1e"
FIRST_BYTE = "4s"
"""Long for a machine that is busy, and every wait for a server that hangs."""
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"model": "not-me"}}}]


@dataclass
class Gateway:
    server: ApiServer
    namespace: str
    run_dir: str
    port: int
    http: int
    envoy: Envoy
    pods: Upstream
    endpoint: Upstream
    allow: str = "127.0.0.0/8"
    router: subprocess.Popen[bytes] | None = None

    def start_router(self) -> None:
        environment = os.environ | {
            "POD_NAME": "gw-0", "MODELFLEET_RUN_DIR": self.run_dir, "MODELFLEET_HTTP_HOST": "127.0.0.1", "MODELFLEET_HTTP_PORT": str(self.http),
            "MODELFLEET_ENVOY_PORT": str(self.port), "MODELFLEET_NAMESPACES": self.namespace, "MODELFLEET_KUBECONFIG": str(self.server.kubeconfig),
            "MODELFLEET_DRAIN_SECONDS": "0", "MODELFLEET_ENDPOINTS_ALLOW": self.allow,
            "MODELFLEET_DECIDE_TIMEOUT_MS": "20000",  # what a busy machine makes of 50 ms is the question of no test here
        }  # fmt: skip
        with Path(self.run_dir, "router.log").open("ab") as log:
            self.router = subprocess.Popen([sys.executable, "-m", "modelfleet", "router"], env=environment, stdout=log, stderr=log)

    def end_router(self, how: signal.Signals) -> int:
        assert self.router is not None
        self.router.send_signal(how)
        return self.router.wait(timeout=90)

    def logs(self) -> str:
        return "".join(path.read_text() for path in Path(self.run_dir).glob("*.log"))

    async def chat(self, **body: Any) -> Answer:
        return await ask(self.port, {"model": "auto", "messages": [{"role": "user", "content": "hello"}]} | body)

    async def get(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        def fetch() -> tuple[int, bytes]:
            try:
                with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", data=body), timeout=60) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()
            except OSError:
                return 0, b""

        return await asyncio.to_thread(fetch)

    async def samples(self) -> dict[tuple[str, tuple[str, ...]], float]:
        _, text = await self.get("/metrics")
        return {
            (sample.name.removeprefix("modelfleet_router_"), tuple(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
        }

    async def sees(self, name: str, *labels: str, value: float) -> None:
        """Wait for a sample; labels in the order of their names."""
        for _ in range(1800):
            samples = await self.samples()
            if samples.get((name, labels)) == value:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{name}{labels} is not {value}: { ({k: v for k, v in samples.items() if k[0] == name}) }\n{self.logs()[-3000:]}")

    async def answers(self, why: str, **body: Any) -> Answer:
        """Ask until the decision's word is ``why``; every answer on the way must be good."""
        for _ in range(1800):
            answer = await self.chat(**body)
            assert answer.status == 200, (answer, self.logs()[-2000:])
            if answer.headers["x-modelfleet-decision"].endswith(f"why={why}"):
                return answer
            await asyncio.sleep(0.05)
        raise AssertionError(f"never {why}: {answer}\n{self.logs()[-3000:]}")

    async def served(self, by: str) -> None:
        """Ask what only the default chain answers until ``by`` serves it: the probe, the decider and Envoy learn of news one after the other."""
        for _ in range(1800):
            answer = await self.answers("DefaultChain", tools=TOOLS)
            if answer.headers["x-modelfleet-served"] == by:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never served by {by}: {answer}\n{self.logs()[-3000:]}")

    def policy(self) -> dict[str, Any]:
        found: dict[str, Any] = self.server.get("routingpolicy", "assistant", "-n", self.namespace)
        return found

    def apply_key(self, key: str) -> None:
        self.server.apply(json.dumps({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "remote-key", "namespace": self.namespace}, "stringData": {"token": key},
        }))  # fmt: skip


def the_objects(namespace: str, pods_port: int, endpoint_port: int) -> list[dict[str, Any]]:
    def ours(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        return {"apiVersion": "modelfleet.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}

    endpoint = {
        "url": f"http://127.0.0.1:{endpoint_port}/v1", "model": "far-model", "authSecretRef": {"name": "remote-key", "key": "token"},
        "price": {"inputPerMillion": "1.5", "outputPerMillion": "6"},
    }  # fmt: skip
    candidates = [{"name": name, "poolRef": {"name": name}} for name in ("small", "boss")]
    short = {"name": "short", "match": {"inputTokens": {"max": 100}, "tools": "Absent"}, "candidates": ["small", "boss"]}
    labels = {"modelfleet.dev/pool": "small", "modelfleet.dev/flavor": "cpu", "kubernetes.io/service-name": "small-cpu"}
    return [
        ours("ModelPool", "small", {
            "model": {"name": "small-model", "source": "hf://o/r"}, "engine": {"type": "LlamaCpp"}, "flavors": [{"name": "cpu", "acceleratorClass": "cpu"}],
        }),
        ours("ModelPool", "boss", {"model": {"name": "boss-model", "source": "hf://o/r"}, "flavors": [{"name": "far", "endpoint": endpoint}]}),
        ours("RoutingPolicy", "assistant", {
            "entrypoints": [{"name": "auto"}], "candidates": candidates, "default": {"chain": ["boss", "small"]}, "rules": [short],
            "fallback": {"firstByteTimeout": FIRST_BYTE},
        }),
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "small-cpu-x", "namespace": namespace, "labels": labels},
            "addressType": "IPv4", "ports": [{"name": "http", "port": pods_port}], "endpoints": [{"addresses": [ADDRESS], "conditions": {"ready": True}}],
        },
    ]  # fmt: skip


def _endpoint_reply(request: Request) -> Reply:
    if request.headers.get("authorization") != f"Bearer {KEY}":
        return Reply(status=401, body=b'{"error": {"message": "bad key"}}')
    if request.method == "GET":
        return Reply(body=b'{"object": "list", "data": []}')
    return stream(words=5) if request.json.get("stream") else completion(prompt=13, made=4)


@pytest.fixture
async def gateway(apiserver_with_crds: ApiServer) -> AsyncIterator[Gateway]:
    async with a_gateway(apiserver_with_crds) as made:
        yield made


@asynccontextmanager
async def a_gateway(server: ApiServer) -> AsyncIterator[Gateway]:
    added = subprocess.run(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"], capture_output=True, check=False).returncode == 0
    namespace, run_dir = f"gw-{uuid4().hex[:8]}", short_dir()
    endpoint = await Upstream(_endpoint_reply).start()
    pods = Upstream(lambda request: stream(words=3) if request.json.get("stream") else completion(prompt=11, made=7))
    pods._server = await asyncio.start_server(pods._serve, ADDRESS, 0)
    pods.port = pods._server.sockets[0].getsockname()[1]
    server.kubectl("create", "namespace", namespace, check=True)
    made = Gateway(server, namespace, run_dir, free_port(), free_port(), Envoy(run_dir), pods, endpoint)
    made.apply_key(KEY)
    server.apply("\n---\n".join(json.dumps(o) for o in the_objects(namespace, pods.port, endpoint.port)))
    made.start_router()
    made.envoy.start()
    try:
        await until(lambda: _accepts(made.port), "a listener", 120)
        yield made
    finally:
        made.envoy.kill()
        if made.router is not None and made.router.poll() is None:
            made.end_router(signal.SIGKILL)
        await endpoint.stop()
        await pods.stop()
        remove(run_dir)
        if added:
            subprocess.run(["ip", "address", "del", f"{ADDRESS}/32", "dev", "lo"], capture_output=True, check=False)


def missing(policy: dict[str, Any]) -> list[list[str]]:
    return [entry["missing"] for entry in policy.get("status", {}).get("gateways", ())]


def _accepts(port: int) -> bool:
    import socket

    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


async def test_a_request_goes_where_it_was_decided_and_its_tokens_are_counted_as_reported(gateway: Gateway) -> None:
    near = await gateway.answers("RuleMatched", metadata={"model": "auto"})
    assert (near.headers["x-modelfleet-served"], near.headers["x-modelfleet-attempts"]) == (f"{gateway.namespace}/small/cpu", "1")
    sent = gateway.pods.requests[-1].json
    assert (sent["model"], sent["metadata"]) == ("small-model", {"model": "auto"})
    asked = len(gateway.pods.requests)

    # before the router had its plan, Envoy may have served from the static chain, which begins with the boss
    early = [r for r in gateway.endpoint.requests if r.method == "POST"]
    assert not any(r.json.get("stream") for r in early)
    far = await gateway.chat(tools=TOOLS)
    assert far.headers["x-modelfleet-served"] == f"{gateway.namespace}/boss/far"
    assert far.headers["x-modelfleet-decision"].endswith("rule=-;chain=boss,small;why=DefaultChain")
    assert (gateway.endpoint.requests[-1].json["model"], gateway.endpoint.requests[-1].json["tools"]) == ("far-model", TOOLS)
    streamed = await gateway.chat(tools=TOOLS, stream=True)
    assert (streamed.status, streamed.body.count(b"data: ")) == (200, 7)

    pool = f"{gateway.namespace}/boss"
    await gateway.sees("usage_tokens_total", "input", "far", pool, "reported", value=13 * (1 + len(early)) + 21)
    await gateway.sees("usage_tokens_total", "output", "far", pool, "reported", value=4 * (1 + len(early)) + 5)
    await gateway.sees("usage_micro_usd_total", "far", pool, value=1.5 * (34 + 13 * len(early)) + 6 * (9 + 4 * len(early)))
    await gateway.sees("usage_tokens_total", "output", "cpu", f"{gateway.namespace}/small", "reported", value=7 * asked)
    await gateway.sees("requests_total", "200", "far", f"{gateway.namespace}/assistant", pool, "", value=2 + len(early))
    await gateway.sees("endpoint_up", "far", pool, "", value=1)
    assert KEY not in gateway.logs()


async def test_a_client_that_hangs_up_at_done_is_counted_as_reported(gateway: Gateway) -> None:
    await gateway.answers("RuleMatched")
    answer = stream(words=9)
    assert answer.chunks is not None
    gateway.pods.reply = lambda request: replace(answer, chunks=[*(answer.chunks or []), 3.0])
    body = json.dumps({"model": "auto", "stream": True, "messages": [{"role": "user", "content": "hello"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(head + body)
    await asyncio.wait_for(reader.readuntil(b"[DONE]"), 20)
    writer.close()
    before = 7 * (len(gateway.pods.requests) - 1)
    await gateway.sees("usage_tokens_total", "output", "cpu", f"{gateway.namespace}/small", "reported", value=before + 9)


async def test_explain_tells_what_happened_and_status_tells_what_runs_and_an_idle_gateway_writes_nothing(gateway: Gateway) -> None:
    answer = await gateway.answers("RuleMatched")
    header = answer.headers["x-modelfleet-decision"]
    _, told = await gateway.get(f"/explain?id={header.partition(';')[0].removeprefix('id=')}")
    assert json.loads(told)["header"] == header
    assert "hello" not in told.decode()
    _, dry = await gateway.get("/explain", json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hello"}]}).encode())
    assert (json.loads(dry)["chain"], json.loads(dry)["trail"]) == (["small", "boss"], json.loads(told)["trail"])
    assert (await gateway.get("/explain?id=nix"))[0] == 404
    assert [(await gateway.get(path))[0] for path in ("/readyz", "/healthz")] == [200, 200]

    await until(lambda: gateway.policy().get("status", {}).get("gateways"), "an entry in status")
    policy = gateway.policy()
    entry = policy["status"]["gateways"][0]
    assert (entry["name"], entry["generation"], entry["missing"], "rejected" in entry) == ("gw-0", 1, [], False)
    assert all(entry[field] for field in ("version", "acknowledgedAt"))
    assert gateway.end_router(signal.SIGTERM) == 0
    gateway.start_router()
    await gateway.answers("RuleMatched", user="after")
    await gateway.sees("xds_acked_total", value=1)
    await asyncio.sleep(1.5)
    assert gateway.policy()["metadata"]["resourceVersion"] == policy["metadata"]["resourceVersion"]


async def test_the_first_byte_limit_moves_a_stream_on_and_leaves_a_slow_whole_answer_alone(gateway: Gateway) -> None:
    await gateway.answers("RuleMatched")
    gateway.pods.reply = lambda request: replace(stream(words=3) if request.json.get("stream") else completion(), after=8.0)
    whole = await gateway.chat()
    assert (whole.headers["x-modelfleet-served"], whole.headers["x-modelfleet-attempts"]) == (f"{gateway.namespace}/small/cpu", "1")
    streamed = await gateway.chat(stream=True)
    assert (streamed.headers["x-modelfleet-served"], streamed.headers["x-modelfleet-attempts"]) == (f"{gateway.namespace}/boss/far", "2")

    gateway.end_router(signal.SIGKILL)
    answers, gateway.endpoint.reply = gateway.endpoint.reply, lambda request: replace(answers(request), after=8.0)
    lost = await gateway.chat()
    assert lost.headers["x-modelfleet-decision"].endswith("why=DeciderLost")
    assert (lost.headers["x-modelfleet-served"], lost.headers["x-modelfleet-attempts"]) == (f"{gateway.namespace}/boss/far", "1")


async def test_an_endpoint_that_leads_inside_is_dropped_told_and_served_once_it_is_allowed(gateway: Gateway) -> None:
    pool = f"{gateway.namespace}/boss"
    await gateway.served(f"{pool}/far")
    gateway.end_router(signal.SIGTERM)
    gateway.allow = ""
    gateway.start_router()
    await gateway.sees("endpoint_up", "far", pool, "EndpointNotAllowed", value=0)
    await gateway.served(f"{gateway.namespace}/small/cpu")
    asked = len(gateway.endpoint.requests)
    for _ in range(3):
        other = await gateway.answers("DefaultChain", tools=TOOLS)
        assert (other.headers["x-modelfleet-served"], other.headers["x-modelfleet-attempts"]) == (f"{gateway.namespace}/small/cpu", "1")
    assert len(gateway.endpoint.requests) == asked
    gateway.end_router(signal.SIGTERM)
    gateway.allow = "10.0.0.0/8, 127.0.0.1"
    gateway.start_router()
    await gateway.sees("endpoint_up", "far", pool, "", value=1)
    await gateway.served(f"{pool}/far")


async def test_a_killed_decider_leaves_the_static_chain_and_comes_back(gateway: Gateway) -> None:
    await gateway.answers("RuleMatched")
    gateway.end_router(signal.SIGKILL)
    lost = await gateway.chat()
    assert (lost.status, lost.headers["x-modelfleet-served"]) == (200, f"{gateway.namespace}/boss/far")
    assert lost.headers["x-modelfleet-decision"].endswith("why=DeciderLost")
    gateway.start_router()
    back = await gateway.answers("RuleMatched")
    assert back.headers["x-modelfleet-served"] == f"{gateway.namespace}/small/cpu"


async def test_a_refused_key_is_told_and_the_next_candidate_serves_until_the_key_is_right_again(gateway: Gateway) -> None:
    pool = f"{gateway.namespace}/boss"
    assert (await gateway.answers("DefaultChain", tools=TOOLS)).headers["x-modelfleet-served"] == f"{pool}/far"
    await gateway.sees("endpoint_up", "far", pool, "", value=1)
    gateway.apply_key("sk-wrong-77aa")
    await gateway.sees("endpoint_up", "far", pool, "KeyRefused", value=0)
    for _ in range(900):  # the probe may know of the key before Envoy has it
        other = await gateway.chat(tools=TOOLS)
        if other.headers.get("x-modelfleet-served") != f"{pool}/far":
            break
        await asyncio.sleep(0.1)
    assert (other.status, other.headers["x-modelfleet-served"], other.headers["x-modelfleet-attempts"]) == (200, f"{gateway.namespace}/small/cpu", "2")
    gateway.apply_key(KEY)
    await gateway.sees("endpoint_up", "far", pool, "", value=1)
    await gateway.served(f"{pool}/far")

    gateway.server.kubectl("delete", "secret", "remote-key", "-n", gateway.namespace, check=True)
    await until(lambda: missing(gateway.policy()) == [["secret/remote-key"]], "the missing Secret in status")
    await gateway.sees("endpoint_up", "far", pool, "SecretMissing", value=0)
    await gateway.served(f"{gateway.namespace}/small/cpu")
    assert not any(key in gateway.logs() for key in (KEY, "sk-wrong-77aa"))


async def test_without_the_api_server_everything_goes_on_and_afterwards_the_news_arrive(make_apiserver: Callable[..., ApiServer]) -> None:
    server = make_apiserver()
    server.apply_crds()
    async with a_gateway(server) as gateway:
        await gateway.answers("RuleMatched")
        server.stop()
        for _ in range(5):
            assert (await gateway.answers("RuleMatched")).headers["x-modelfleet-served"] == f"{gateway.namespace}/small/cpu"
        gateway.envoy.kill()
        gateway.envoy.start()
        await until(lambda: _accepts(gateway.port), "an Envoy that started anew", 120)
        await gateway.answers("RuleMatched")
        await asyncio.to_thread(server.start)
        server.kubectl("delete", "endpointslice", "small-cpu-x", "-n", gateway.namespace, check=True)
        for _ in range(900):
            answer = await gateway.answers("RuleMatched")
            if answer.headers["x-modelfleet-served"] == f"{gateway.namespace}/boss/far":
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"the pod that is gone still answers: {answer}")
