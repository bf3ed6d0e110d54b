"""Secrets and prompts reach who they are meant for and appear nowhere else: no log, status, event, metric or dump of any process holds them.

The real operator, router, Envoy and team runtime at their most talkative, on a real API server with the chart's rights, and a provider that writes down what it
is told. Each canary is first seen where it belongs, so that its absence elsewhere means something.
"""

from __future__ import annotations

import http.client
import http.server
import json
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.charts.fleet import COMMANDS, OURS, Fleet
from tests.charts.rights import Ground, until
from tests.support.apiserver import ApiServer

pytestmark = [pytest.mark.real, pytest.mark.slow]

ENDPOINT_KEY = "canary-endpoint-key-7d1f"
GRANT_KEY = "canary-grant-key-91bb" + "x" * 27
CLIENT_KEY = "canary-client-key-40ce"
PROMPT, TEAM_PROMPT = "canary prompt 5a5a of a client", "canary prompt 6b6b of a team"
ANSWER = "canary answer 3c3c"
FORGED = "v1.Y2FuYXJ5LWZvcmdlZA.Y2FuYXJ5LWZvcmdlZA"
CANARIES = (ENDPOINT_KEY, GRANT_KEY, CLIENT_KEY, PROMPT, TEAM_PROMPT, ANSWER, FORGED)


@dataclass
class Provider:
    """An OpenAI-like server on loopback that remembers what it was asked."""

    seen: list[tuple[dict[str, str], str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        seen = self.seen

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                seen.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self._reply(_completion(stream=bool(json.loads(body).get("stream"))))

            def do_GET(self) -> None:
                self._reply((json.dumps({"object": "list", "data": []}), "application/json"))

            def _reply(self, reply: tuple[str, str]) -> None:
                raw = reply[0].encode()
                self.send_response(200)
                self.send_header("content-type", reply[1])
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _completion(*, stream: bool) -> tuple[str, str]:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    about = {"id": "c-1", "created": 1, "model": "m"}
    if not stream:
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ANSWER}}
        return json.dumps({**about, "object": "chat.completion", "choices": [choice], "usage": usage}), "application/json"
    chunks = [
        {**about, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ANSWER}, "finish_reason": None}]},
        {**about, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**about, "object": "chat.completion.chunk", "choices": [], "usage": usage},
    ]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n", "text/event-stream"


def admin(run_dir: Path, path: str) -> str:
    """What Envoy's admin door answers."""
    with socket.socket(socket.AF_UNIX) as pipe:
        pipe.settimeout(60)
        pipe.connect(str(run_dir / "admin.sock"))
        connection = http.client.HTTPConnection("envoy")
        connection.sock = pipe
        connection.request("GET", path)
        return connection.getresponse().read().decode()


@dataclass(frozen=True)
class Story:
    """What was answered, what the provider saw, and everything that anybody said."""

    answers: dict[str, httpx.Response]
    provider: Provider
    journal: bytes
    told: dict[str, str]


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    server, provider, run_dir = ApiServer(), Provider(), Path(tempfile.mkdtemp(prefix="mf-"))
    try:
        server.apply_crds()
        ground = Ground(server, {"gateway": {"secretNamespaces": ["demo"]}})
        yield tell(ground, Fleet(ground, run_dir, endpoint=provider.url, key=ENDPOINT_KEY, grant_key=GRANT_KEY), provider)
    finally:
        provider.close()
        server.close()
        shutil.rmtree(run_dir, ignore_errors=True)


def tell(ground: Ground, fleet: Fleet, provider: Provider) -> Story:
    debug = {"MODELFLEET_LOG_LEVEL": "debug"}
    policy, team = fleet.policy(), fleet.team()
    entry = ground.call("GET", f"{OURS}/routingpolicies/{policy}")["spec"]["entrypoints"][0]["name"]
    envoy, teams = (f"http://127.0.0.1:{fleet.ports[name]}" for name in ("envoy", "teams"))
    body = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 8}
    with (
        fleet.running(*COMMANDS, gateway={**debug, "MODELFLEET_ENDPOINTS_ALLOW": "127.0.0.1"}, operator=debug, teams=debug),
        httpx.Client(trust_env=False, timeout=60) as client,
    ):

        def ask(url: str, model: str, **headers: str) -> httpx.Response:
            try:
                return client.post(f"{url}/v1/chat/completions", json={**body, "model": model}, headers={"authorization": f"Bearer {CLIENT_KEY}", **headers})
            except httpx.TransportError:
                return httpx.Response(0)

        answers = {"plain": until(lambda: (r := ask(envoy, entry)).status_code == 200 and r, "an answer through the gateway")}
        body["messages"] = [{"role": "user", "content": TEAM_PROMPT}]
        answers["team"] = until(lambda: (r := ask(teams, f"demo/{team}")).status_code == 200 and r, "an answer of the team")
        pool = ground.call("GET", f"{OURS}/agentteams/{team}")["spec"]["roles"][0]["modelFrom"]["modelPoolRef"]["name"]
        answers["forged"] = ask(envoy, f"pool:demo/{pool}", **{"x-modelfleet-grant": FORGED})
        answers["unknown"] = ask(envoy, "no-such-model")
        until(lambda: ground.call("GET", f"{OURS}/agentteams/{team}").get("status", {}).get("conditions"), "the team's status")
        told = {f"{name}'s metrics": client.get(f"http://127.0.0.1:{fleet.ports[name]}/metrics").text for name in ("operator", "router", "teams")}
        told |= {f"Envoy's {path}": admin(fleet.run_dir, path) for path in ("/config_dump?include_eds", "/stats", "/clusters")}
        kinds = "modelpools,routingpolicies,agentteams,acceleratorclasses,events,deployments,services,leases,configmaps"
        told["the API's objects"] = ground.server.kubectl("get", kinds, "-A", "-o", "yaml", "--show-managed-fields", check=True).stdout
        journal = b"".join(path.read_bytes() for path in sorted(fleet.run_dir.glob("journal.sqlite*")))
    told |= {f"{command}'s log": ground.log(command).read_text() for command in (*COMMANDS.values(), "envoy")}
    return Story(answers, provider, journal, told)


def test_each_canary_was_where_it_belongs(story: Story) -> None:
    assert {name: answer.status_code for name, answer in story.answers.items() if name in ("plain", "team")} == {"plain": 200, "team": 200}
    assert all(ANSWER in story.answers[name].text for name in ("plain", "team"))
    told = [(headers.get("authorization"), body) for headers, body in story.provider.seen]
    assert any(key == f"Bearer {ENDPOINT_KEY}" and PROMPT in body for key, body in told)
    assert any(key == f"Bearer {ENDPOINT_KEY}" and TEAM_PROMPT in body for key, body in told)
    assert TEAM_PROMPT.encode() in story.journal, "journal.content is Full: it is what a run resumes from"
    assert story.answers["forged"].status_code in (401, 403), "a grant that nobody signed opens nothing"


def test_the_provider_learns_neither_the_clients_key_nor_a_grant(story: Story) -> None:
    for headers, body in story.provider.seen:
        told = json.dumps(headers) + body
        assert CLIENT_KEY not in told
        assert "x-modelfleet-grant" not in headers
        assert GRANT_KEY not in told


@pytest.mark.parametrize("canary", CANARIES)
def test_no_canary_is_told_to_anybody_else(story: Story, canary: str) -> None:
    assert all(text.strip() for text in story.told.values()), {name: len(text) for name, text in story.told.items()}
    found = {name: text[max(0, text.index(canary) - 300) : text.index(canary) + 100] for name, text in story.told.items() if canary in text}
    assert not found


def test_keys_are_not_in_the_journal_or_in_any_answer(story: Story) -> None:
    for key in (ENDPOINT_KEY, GRANT_KEY, CLIENT_KEY):
        assert key.encode() not in story.journal
        assert not [name for name, answer in story.answers.items() if key in answer.text or key in str(answer.headers)]
