"""The router as a process: what it reads from its environment, and that nothing it needs may be there yet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.envoy import a_policy, a_pool, free_port, remote, remove, short_dir, until

from modelfleet.core.routing.compile import compile_routes
from modelfleet.core.routing.egress import egress
from modelfleet.core.routing.ir import RoutingWorld
from modelfleet.core.routing.xds import resources
from modelfleet.errors import Stalled
from modelfleet.kube.client import Client
from modelfleet.router.process import Router
from modelfleet.router.protos import pack
from modelfleet.router.settings import RouterSettings, read_settings


def test_settings_come_from_the_environment_and_have_defaults() -> None:
    assert read_settings({}) == RouterSettings()
    assert read_settings({"HOSTNAME": "h", "POD_NAME": ""}).pod == "h"
    read = read_settings({
        "POD_NAME": "gw-1", "MODELFLEET_RUN_DIR": "/x", "MODELFLEET_HTTP_PORT": "1", "MODELFLEET_NAMESPACES": " b, a,,b", "MODELFLEET_DRAIN_SECONDS": "0",
        "MODELFLEET_MAX_BODY_BYTES": "77", "MODELFLEET_KUBECONFIG": "/k", "MODELFLEET_ENVOY_PORT": "2", "MODELFLEET_CA_FILE": "/ca",
        "MODELFLEET_LOG_LEVEL": "debug", "MODELFLEET_HTTP_HOST": "::1", "MODELFLEET_ENDPOINTS_ALLOW": "10.1.0.0/16, llm.example,",
        "MODELFLEET_GRANT_KEYS_DIR": "/keys", "POD_NAMESPACE": "system",
    })  # fmt: skip
    assert read == RouterSettings(
        pod="gw-1", run_dir="/x", http_host="::1", http_port=1, envoy_port=2, namespaces=("a", "b"), max_body_bytes=77, ca_file="/ca", log_level="debug",
        drain=0.0, kubeconfig="/k", egress=egress(["10.1.0.0/16", "llm.example"]), grant_keys="/keys", teams_namespace="system",
    )  # fmt: skip


@pytest.mark.parametrize("text", ["eight", "-1", "1.5", "٣"])
def test_a_wrong_setting_is_named(text: str) -> None:
    with pytest.raises(Stalled, match="MODELFLEET_HTTP_PORT"):
        read_settings({"MODELFLEET_HTTP_PORT": text})


def test_a_wrong_entry_of_the_allowed_endpoints_is_named() -> None:
    with pytest.raises(Stalled, match=r"MODELFLEET_ENDPOINTS_ALLOW: '10.0.0.1/8' is no CIDR"):
        read_settings({"MODELFLEET_ENDPOINTS_ALLOW": "x.example,10.0.0.1/8"})


KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


async def test_an_endpoint_whose_name_leads_inside_leaves_the_plan_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(KUBECONFIG)
    client = await Client.connect("router", config)
    router = Router(RouterSettings(run_dir=str(tmp_path)), client)
    pools = (a_pool("far", remote("named", "http://llm.example.com"), remote("meta", "http://169.254.169.254")),)
    world = RoutingWorld(pools, (a_policy("p", "far"),))

    async def observe() -> object:
        return world, {}, {}

    monkeypatch.setattr(router.watches, "observe", observe)
    try:
        for reason, kept in ((None, ["named"]), ("EndpointNotAllowed", []), ("Unreachable", ["named"])):
            if reason is not None:
                router.changes.drain()
                router.health.observe("shop/far", "named", reason, probed=True)
                assert router.changes.drain() == {"egress"}
            await router._compile()
            assert [r.flavor for r in router._plan.remote_clusters] == kept
            assert sorted(t.remote.flavor for t in router.prober._targets.values()) == ["meta", "named"]
            assert router.health.reason("shop/far", "named") == reason
    finally:
        await client.close()


async def test_no_decision_waits_for_a_plan_of_hundreds_of_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling and writing resources happen beside the loop that answers Checks, which has 50 ms for each."""
    config = tmp_path / "kubeconfig"
    config.write_text(KUBECONFIG)
    client = await Client.connect("router", config)
    router = Router(RouterSettings(run_dir=str(tmp_path)), client)
    world, loop = RoutingWorld((a_pool("m"),), (a_policy("p", "m"),)), threading.get_ident()
    ran: dict[str, list[bool]] = {"compile": [], "resources": [], "pack": []}

    async def observe() -> object:
        return world, {}, {}

    def beside(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            ran[name].append(threading.get_ident() != loop)
            return function(*args)

        return run

    monkeypatch.setattr(router.watches, "observe", observe)
    monkeypatch.setattr("modelfleet.router.process.compile_routes", beside("compile", compile_routes))
    monkeypatch.setattr("modelfleet.router.ads.resources", beside("resources", resources))
    monkeypatch.setattr("modelfleet.router.ads.pack", beside("pack", pack))
    try:
        await router._compile()
    finally:
        await client.close()
    assert all(ran.values())
    assert all(all(found) for found in ran.values()), ran


async def test_without_api_server_and_envoy_it_waits_alive_and_not_ready_and_ends_when_told() -> None:
    folder, port = short_dir(), free_port()
    config = Path(folder, "kubeconfig")
    config.write_text(KUBECONFIG)
    environment = os.environ | {
        "MODELFLEET_RUN_DIR": folder, "MODELFLEET_HTTP_HOST": "127.0.0.1", "MODELFLEET_HTTP_PORT": str(port), "MODELFLEET_KUBECONFIG": str(config),
        "MODELFLEET_DRAIN_SECONDS": "0",
    }  # fmt: skip

    def status(path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    process = subprocess.Popen([sys.executable, "-m", "modelfleet", "router"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await until(lambda: status("/healthz"), "an answer", 60)
        assert {path: status(path) for path in ("/healthz", "/readyz", "/metrics", "/explain?id=1", "/nix")} == {
            "/healthz": 200, "/readyz": 503, "/metrics": 200, "/explain?id=1": 404, "/nix": 404,
        }  # fmt: skip
        for name in ("ads.sock", "authz.sock"):
            assert Path(folder, name).stat().st_mode & 0o777 == 0o660
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=90) == 0
    finally:
        process.kill()
        process.wait()
        remove(folder)
