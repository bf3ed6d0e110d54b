"""The team runtime as a process: settings, keys, readiness; on a real API server from `kubectl apply` to an answer, an edit, lost servers, SIGTERM, a kill."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.apiserver import ApiServer
from tests.support.scripted_model import KEY, Script, ScriptedModel

from modelfleet.core.teams.ir import TeamsPlan
from modelfleet.errors import Stalled
from modelfleet.kube.client import Client
from modelfleet.teamserver.grant_keys import GrantKeys
from modelfleet.teamserver.journal.sqlite import SqliteJournal
from modelfleet.teamserver.process import TeamRuntime
from modelfleet.teamserver.settings import TeamsSettings, read_settings

NEEDED = {"MODELFLEET_GATEWAY_URL": "http://gw:8080/", "MODELFLEET_JOURNAL": "/j/db", "MODELFLEET_GRANT_KEYS_DIR": "/keys"}


def test_settings_come_from_the_environment_and_have_defaults() -> None:
    assert read_settings(NEEDED) == TeamsSettings("http://gw:8080", Path("/j/db"), Path("/keys"))
    read = read_settings(NEEDED | {
        "POD_NAME": "teams-1", "MODELFLEET_HTTP_HOST": "::1", "MODELFLEET_TEAMS_PORT": "1", "MODELFLEET_NAMESPACES": " b,a,,b", "MODELFLEET_DRAIN_SECONDS": "0",
        "MODELFLEET_MAX_BODY_BYTES": "77", "MODELFLEET_LOG_LEVEL": "debug", "MODELFLEET_KUBECONFIG": "/k",
    })  # fmt: skip
    assert read == TeamsSettings(
        "http://gw:8080", Path("/j/db"), Path("/keys"), pod="teams-1", http_host="::1", http_port=1, namespaces=("a", "b"), max_body_bytes=77,
        log_level="debug", drain=0.0, kubeconfig="/k",
    )  # fmt: skip
    assert read_settings(NEEDED | {"HOSTNAME": "h"}).pod == "h"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODELFLEET_GATEWAY_URL", ""), ("MODELFLEET_GATEWAY_URL", "gw:8080"), ("MODELFLEET_GATEWAY_URL", "ftp://gw"), ("MODELFLEET_GATEWAY_URL", "http://:80"),
        ("MODELFLEET_GATEWAY_URL", "http://gw:x"), ("MODELFLEET_GATEWAY_URL", "http://gw?a=b"), ("MODELFLEET_JOURNAL", " "), ("MODELFLEET_GRANT_KEYS_DIR", ""),
        ("MODELFLEET_TEAMS_PORT", "tcp://10.0.0.1:8090"), ("MODELFLEET_TEAMS_PORT", "65536"), ("MODELFLEET_DRAIN_SECONDS", "-1"),
        ("MODELFLEET_MAX_BODY_BYTES", "1.5"), ("MODELFLEET_LOG_LEVEL", "loud"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_its_cure(name: str, value: str) -> None:
    with pytest.raises(Stalled, match=f"^InvalidSetting: {name} is .*: write "):
        read_settings(NEEDED | {name: value})


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_keys_are_files_in_the_order_of_their_names_and_are_read_again(tmp_path: Path) -> None:
    clock = Clock()
    keys = GrantKeys(tmp_path / "keys", clock)
    assert keys() == ()
    (tmp_path / "keys" / "..data").mkdir(parents=True)
    for name, key in (("b", b"second"), ("a", b"first\n"), ("empty", b" "), (".hidden", b"no")):
        (tmp_path / "keys" / name).write_bytes(key)
    assert keys() == (), "looked at once a second at most"
    clock.now = 1.0
    assert keys() == (b"first", b"second")
    (tmp_path / "keys" / "a").unlink()
    clock.now = 2.0
    assert keys() == (b"second",)
    (tmp_path / "keys").rename(tmp_path / "gone")
    clock.now = 3.0
    assert keys() == (b"second",), "a folder that cannot be read leaves the last keys"


# --- readiness ---

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


class Frail(SqliteJournal):
    """A journal that a test can take away."""

    broken = ""

    @property
    def healthy(self) -> bool:
        return not self.broken

    @property
    def reason(self) -> str:
        return self.broken

    async def probe(self, now: float) -> bool:
        return self.healthy


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[TeamRuntime]:
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "1").write_bytes(KEY)
    client = await Client.connect("teams", tmp_path / "kubeconfig")
    journal = await Frail.open(tmp_path / "journal")
    yield TeamRuntime(TeamsSettings("http://127.0.0.1:1", tmp_path / "journal", tmp_path / "keys"), client, journal)
    await journal.close()
    await client.close()


async def test_ready_means_listed_a_journal_that_takes_rows_and_a_key(runtime: TeamRuntime, tmp_path: Path) -> None:
    assert isinstance(runtime.journal, Frail)
    assert await runtime.probe() == "teams, pools and policies were not all listed yet"
    runtime._compile()
    assert await runtime.probe() is None
    runtime.journal.broken = "the disk is full"
    assert await runtime.probe() == "the journal takes no rows: the disk is full"
    runtime.journal.broken = ""
    (tmp_path / "keys" / "1").unlink()
    runtime.keys._looked = None
    assert await runtime.probe() == f"there is no grant key in {tmp_path / 'keys'}"
    runtime.leaving = True
    assert await runtime.probe() == "this process is leaving"


async def test_objects_that_cannot_be_compiled_leave_the_plan_and_are_counted(runtime: TeamRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime._compile()
    plan = runtime.plan

    def fail() -> TeamsPlan:
        raise RuntimeError("bug")

    monkeypatch.setattr(runtime.watches, "compile", fail)
    runtime._compile()
    assert runtime.plan is plan
    assert await runtime.probe() is None
    assert runtime.metrics.registry.get_sample_value("modelfleet_team_compile_errors_total") == 1


# --- the process ---

POOL = """
apiVersion: modelfleet.dev/v1alpha1
kind: ModelPool
metadata: {name: boss, namespace: legal}
spec:
  model: {name: m, source: "hf://x/y"}
  engine: {type: VLLM}
  flavors:
  - {name: far, endpoint: {url: "https://x.example/v1", model: m, price: {inputPerMillion: "1", outputPerMillion: "2"}}}
---
"""
TEAM = """
apiVersion: modelfleet.dev/v1alpha1
kind: AgentTeam
metadata: {name: review, namespace: legal}
spec:
  roles:
  - {name: boss, modelFrom: {modelPoolRef: {name: boss}}, instructions: INSTRUCTIONS, sampling: {maxTokens: 40}}
  strategy: {chain: {steps: [{name: only, role: boss}]}}
  budget: {perRun: {cost: "0.5", wallClock: 60s}}
"""


class Process:
    """`modelfleet teams`, its files and its door."""

    def __init__(self, server: ApiServer, gateway: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (folder / "keys").mkdir(exist_ok=True)
        (folder / "keys" / "1").write_bytes(KEY)
        self.environment = os.environ | {
            "MODELFLEET_GATEWAY_URL": gateway, "MODELFLEET_JOURNAL": str(folder / "journal"), "MODELFLEET_GRANT_KEYS_DIR": str(folder / "keys"),
            "MODELFLEET_TEAMS_PORT": str(port), "MODELFLEET_HTTP_HOST": "127.0.0.1", "MODELFLEET_KUBECONFIG": str(server.kubeconfig), "POD_NAME": "teams-0",
        }  # fmt: skip
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=180)
        self.start()

    def start(self) -> None:
        self.child = subprocess.Popen([sys.executable, "-m", "modelfleet", "teams"], env=self.environment, stderr=subprocess.PIPE, text=True)

    async def restart(self, **environment: str) -> None:
        self.child.kill()
        await asyncio.to_thread(self.child.communicate)
        self.environment |= environment
        self.start()
        await self.until("/readyz", 200)

    async def until(self, path: str, status: int) -> None:
        for _ in range(1800):
            assert self.child.poll() is None, self.child.stderr and self.child.stderr.read()
            try:
                if (await self.client.get(path)).status_code == status:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
        raise AssertionError(f"{path} never answered {status}")

    async def ask(self, team: str = "legal/review", **more: Any) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json={"model": team, "messages": [{"role": "user", "content": "why?"}]} | more)

    async def close(self) -> None:
        await self.client.aclose()
        if self.child.poll() is None:
            self.child.kill()
        await asyncio.to_thread(self.child.communicate)


@pytest.fixture
async def process(make_apiserver: Callable[..., ApiServer], tmp_path: Path) -> AsyncIterator[tuple[Process, ApiServer, ScriptedModel]]:
    server = make_apiserver()
    server.apply_crds()
    server.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: legal}\n")
    server.apply(POOL + TEAM.replace("INSTRUCTIONS", "one"))
    served, book = {"pool:legal/boss": (("legal/boss", "far"),)}, {("legal/boss", "far"): (1_000_000, 2_000_000)}
    async with ScriptedModel(Script(completion=(40, 40), pause=0.03), served, book) as model:
        started = Process(server, model.url, tmp_path)
        await started.until("/readyz", 200)
        yield started, server, model
        await started.close()


def programmed(server: ApiServer) -> dict[str, Any]:
    conditions = server.get("agentteam", "review", "-n", "legal").get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == "Programmed"), {})


async def eventually(check: Callable[[], Any], *, tries: int = 900) -> None:
    for _ in range(tries):
        if await asyncio.to_thread(check):
            return
        await asyncio.sleep(0.1)
    raise AssertionError("it never came")


async def test_from_apply_to_answer_through_an_edit_and_without_an_api_server_to_the_end(process: tuple[Process, ApiServer, ScriptedModel]) -> None:
    runtime, server, model = process
    assert [m["id"] for m in (await runtime.client.get("/v1/models")).json()["data"]] == ["legal/review", "review"]
    first = (await runtime.ask()).json()
    assert first["modelfleet"]["state"] == "Succeeded"
    await eventually(lambda: programmed(server).get("reason") == "Pending")
    patch = json.dumps({"status": {"gateways": [{"name": "gw-0", "generation": 1, "version": "v"}]}})
    server.kubectl("patch", "agentteam", "review", "-n", "legal", "--subresource=status", "--type=merge", "-p", patch, check=True)
    await eventually(lambda: programmed(server).get("status") == "True")

    # an edit changes new runs only
    running = asyncio.create_task(runtime.ask())
    await eventually(lambda: len(model.seen) == 2)
    server.apply(TEAM.replace("INSTRUCTIONS", "two"))
    await eventually(lambda: programmed(server).get("observedGeneration") == 2)
    assert programmed(server)["reason"] == "Pending", "no gateway has acknowledged generation 2"
    second = (await runtime.ask()).json()
    assert second["modelfleet"]["revision"] != first["modelfleet"]["revision"]
    assert (await running).json()["modelfleet"]["revision"] == first["modelfleet"]["revision"]
    assert [seen.body["messages"][0]["content"] for seen in model.seen] == ["one", "one", "two"]

    # a team that is deleted takes its runs with it
    server.apply(TEAM.replace("review", "brief").replace("INSTRUCTIONS", "three"))
    for _ in range(1800):
        if (running := await runtime.ask("legal/brief")).status_code != 404:
            break
        await asyncio.sleep(0.05)
    assert running.status_code == 200
    model.script = Script(completion=(40, 40), pause=1.0)
    cut = asyncio.create_task(runtime.ask("legal/brief"))
    await eventually(lambda: len(model.seen) == 5)
    server.kubectl("delete", "agentteam", "brief", "-n", "legal", check=True)
    gone = await cut
    assert (gone.status_code, gone.json()["modelfleet"]["stopReason"]) == (409, "TeamDeleted")
    assert (await runtime.ask("legal/brief")).status_code == 404
    model.script = Script(completion=(40, 40), pause=0.03)

    # without an API server
    await asyncio.to_thread(server.stop)
    assert (await runtime.ask()).json()["modelfleet"]["revision"] == second["modelfleet"]["revision"]
    assert (await runtime.client.get("/readyz")).status_code == 200
    metrics = (await runtime.client.get("/metrics")).text
    assert 'modelfleet_team_runs_total{state="Succeeded",stop_reason="Completed",team="legal/review"} 4.0' in metrics

    # SIGTERM: what runs ends, nothing new begins
    model.script = Script(completion=(40, 40), pause=1.0)
    running = asyncio.create_task(runtime.ask())
    await eventually(lambda: len(model.seen) == 7)
    runtime.child.send_signal(signal.SIGTERM)
    await runtime.until("/readyz", 503)
    late = await runtime.ask()
    assert (late.status_code, late.headers["retry-after"]) == (503, "5")
    model.script = Script(completion=(40, 40), pause=0.03)
    assert (await running).json()["modelfleet"]["state"] == "Succeeded"
    assert await asyncio.to_thread(runtime.child.wait, 120) == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_process_that_ends_leaves_its_runs_to_the_next_one(process: tuple[Process, ApiServer, ScriptedModel], how: signal.Signals) -> None:
    runtime, _, model = process
    await runtime.restart(MODELFLEET_DRAIN_SECONDS="0")
    model.script = Script(completion=(40, 40), pause=1.0)
    asking = asyncio.create_task(runtime.client.post(
        "/v1/chat/completions", json={"model": "review", "messages": [{"role": "user", "content": "why?"}]}, headers={"idempotency-key": "k"}
    ))  # fmt: skip
    await eventually(lambda: len(model.seen) == 1)
    runtime.child.send_signal(how)
    if how == signal.SIGTERM:
        told = await asking
        assert (told.status_code, told.json()["error"]["code"], told.headers["retry-after"]) == (503, "not_ready", "5")
        assert "same Idempotency-Key" in told.json()["error"]["message"]
    else:
        with pytest.raises(httpx.TransportError):
            await asking
    assert await asyncio.to_thread(runtime.child.wait, 120) == (0 if how == signal.SIGTERM else -how)
    model.script = Script(completion=(40, 40), pause=0.01)
    runtime.start()
    await runtime.until("/readyz", 200)
    again = await runtime.client.post(
        "/v1/chat/completions", json={"model": "review", "messages": [{"role": "user", "content": "why?"}]}, headers={"idempotency-key": "k"}
    )
    assert again.json()["modelfleet"]["state"] == "Succeeded"
    assert again.json()["modelfleet"]["calls"] == 2, "the call that was in flight is paid for, and was made once more"
    assert {seen.grant.run for seen in model.seen} == {again.headers["x-modelfleet-run"]}
    assert 'modelfleet_team_resumed_total{team="legal/review"} 1.0' in (await runtime.client.get("/metrics")).text


@pytest.mark.parametrize(("lacking", "words"), [("port", "choose another with MODELFLEET_TEAMS_PORT"), ("journal", "journal")])
async def test_a_process_that_cannot_have_its_port_or_its_journal_says_so_and_ends(tmp_path: Path, runtime: TeamRuntime, lacking: str, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = os.environ | {
            "MODELFLEET_GATEWAY_URL": "http://127.0.0.1:1", "MODELFLEET_GRANT_KEYS_DIR": str(tmp_path), "MODELFLEET_HTTP_HOST": "127.0.0.1",
            "MODELFLEET_JOURNAL": str(tmp_path / ("journal" if lacking == "journal" else "another")),
            "MODELFLEET_KUBECONFIG": str(tmp_path / "kubeconfig"), "MODELFLEET_TEAMS_PORT": str(taken.getsockname()[1]),
        }  # fmt: skip
        second = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-m", "modelfleet", "teams"], env=environment, capture_output=True, text=True, timeout=120
        )
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1].startswith("error: ")
    assert words in second.stderr.splitlines()[-1]
    assert "Traceback" not in second.stderr
