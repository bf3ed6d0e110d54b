"""Operator, router, team runtime and Envoy run with what the chart gives them, its ServiceAccounts' tokens and its bootstrap, and lack nothing."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.lab.binaries import binary, ensure_binaries
from tests.support.apiserver import CHECKOUT, ApiServer
from tests.support.envoy import BINARY, free_port

from modelfleet.core.render.labels import MANAGER_ROUTER_PREFIX, MANAGER_STATUS

NAMESPACE = "modelfleet-system"
L4 = {"kubernetes.io/arch": "amd64", "nvidia.com/gpu.product": "NVIDIA-L4"}
PATIENCE = 180.0


def install(server: ApiServer) -> None:
    ensure_binaries(["helm"])
    for name in (NAMESPACE, "demo"):
        server.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
    argv = [str(binary("helm")), "install", "modelfleet", str(CHECKOUT / "charts" / "modelfleet"), "-n", NAMESPACE, "--set", "gateway.secretNamespaces={demo}"]
    subprocess.run(argv, env={**os.environ, "KUBECONFIG": str(server.kubeconfig)}, check=True, capture_output=True)


def add_node(server: ApiServer, name: str, labels: dict[str, str], devices: dict[str, str]) -> None:
    server.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}))
    amounts = {"cpu": "4", "memory": "8Gi", "pods": "50", **devices}
    ready = {"type": "Ready", "status": "True", "reason": "Test", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {"status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}}
    server.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps(status), check=True)


def add_gateway_pod(server: ApiServer, name: str) -> None:
    """The object that stands for the router below: the operator forgets gateways that have no pod."""
    labels = {"app.kubernetes.io/component": "gateway", "app.kubernetes.io/part-of": "modelfleet"}
    pod = {"metadata": {"name": name, "namespace": NAMESPACE, "labels": labels}, "spec": {"containers": [{"name": "router", "image": "router"}]}}
    server.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", **pod}))


def kubeconfig_for(server: ApiServer, account: str) -> Path:
    config = yaml.safe_load(server.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": server.kubectl("create", "token", account, "-n", NAMESPACE, check=True).stdout.strip()}
    path = server.folder / f"{account}.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def admin(run_dir: Path, path: str) -> Any:
    with socket.socket(socket.AF_UNIX) as pipe:
        pipe.settimeout(60)
        pipe.connect(str(run_dir / "admin.sock"))
        connection = http.client.HTTPConnection("envoy")
        connection.sock = pipe
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s for {what}"
        time.sleep(0.3)


def wait_for_rights(server: ApiServer, account: str) -> None:
    """The authorizer follows a watch: what was installed a moment ago may not be known to it yet."""
    ask = ("auth", "can-i", "list", "modelpools.modelfleet.dev", "--all-namespaces", f"--as=system:serviceaccount:{NAMESPACE}:{account}")
    until(lambda: server.kubectl(*ask).returncode == 0, f"the authorizer to hear of {account}")


@pytest.fixture
def run_dir() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mf-"))  # short: a socket's path has 107 characters
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_the_granted_rights_suffice(make_apiserver: Callable[..., ApiServer], run_dir: Path) -> None:
    server = make_apiserver()
    server.apply_crds()
    install(server)
    add_node(server, "two-l4", L4, {"nvidia.com/gpu": "2"})
    add_gateway_pod(server, "modelfleet-gateway-0")
    server.kubectl("apply", "-k", CHECKOUT / "policies" / "examples" / "fleet" / "base", check=True)

    def start(command: str, account: str, **settings: str) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if k != "KUBECONFIG"}
        wait_for_rights(server, account)
        environment |= {"POD_NAME": f"{account}-0", "POD_NAMESPACE": NAMESPACE, "MODELFLEET_KUBECONFIG": str(kubeconfig_for(server, account)), **settings}
        with (server.folder / f"{command}.log").open("w") as log:
            return subprocess.Popen([sys.executable, "-m", "modelfleet", command], env=environment, stdout=log, stderr=log)

    ports = {"MODELFLEET_HTTP_PORT": str(free_port()), "MODELFLEET_ENVOY_PORT": str(free_port())}
    bootstrap = run_dir / "envoy.yaml"
    bootstrap.write_text((CHECKOUT / "charts" / "modelfleet" / "files" / "envoy.yaml").read_text().replace("/run/modelfleet", str(run_dir)))
    proxy = [str(BINARY), "-c", str(bootstrap), "--service-node", "pod-7", "--concurrency", "1", "--disable-hot-restart", "--log-level", "off"]
    (run_dir / "grants").mkdir()
    (run_dir / "grants" / "current").write_text("k" * 48)
    keys = {"MODELFLEET_GRANT_KEYS_DIR": str(run_dir / "grants")}
    team = {
        "MODELFLEET_GATEWAY_URL": f"http://127.0.0.1:{ports['MODELFLEET_ENVOY_PORT']}", "MODELFLEET_JOURNAL": str(run_dir / "journal.sqlite"),
        "MODELFLEET_TEAMS_PORT": str(free_port()), "MODELFLEET_DRAIN_SECONDS": "1",
    }  # fmt: skip
    lease = {"MODELFLEET_LEASE_DURATION": "120", "MODELFLEET_LEASE_DEADLINE": "100"}  # no stall of the machine takes it away
    processes = [
        start("operator", "modelfleet-operator", MODELFLEET_PORT=str(free_port()), **lease),
        start("router", "modelfleet-gateway", MODELFLEET_RUN_DIR=str(run_dir), MODELFLEET_DRAIN_SECONDS="1", **ports, **keys),
        start("teams", "modelfleet-teams", **team, **keys),
        subprocess.Popen(proxy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
    ]
    try:

        def entries() -> list[dict[str, Any]]:
            return (server.get("routingpolicy", "assistant", "-n", "demo").get("status") or {}).get("gateways") or []

        def managers() -> set[str]:
            fields = server.get("agentteam", "readers", "-n", "demo", "--show-managed-fields")["metadata"]["managedFields"]
            return {f["manager"] for f in fields if f.get("subresource") == "status"}

        until(lambda: bool(entries()), "the gateway's entry in the policy's status")
        theirs = {MANAGER_STATUS, f"{MANAGER_ROUTER_PREFIX}modelfleet-gateway-0", "modelfleet-teams"}
        until(lambda: managers() >= theirs, "operator, router and team runtime to write their parts of the team's status")
        until(lambda: server.kubectl("get", "deployment,service", "small-l4", "-n", "demo").returncode == 0, "the children of pool small")
        until(lambda: "modelfleet.dev/accelerator-class" in server.get("node", "two-l4")["metadata"]["labels"], "the node's label")
        assert entries()[0]["missing"] == [], "the router may read the Secret of a namespace in gateway.secretNamespaces"
        assert server.get("node", "two-l4")["metadata"]["labels"]["modelfleet.dev/accelerator-class"] == "nvidia-l4"
        assert admin(run_dir, "/server_info")["node"]["id"] == "pod-7", "one bootstrap serves all pods: the command line names the node"
        server.kubectl("delete", "modelpool", "boss", "-n", "demo", check=True)
        server.kubectl("patch", "modelpool", "small", "-n", "demo", "--type=json", "-p", '[{"op": "remove", "path": "/spec/flavors/1"}]', check=True)
        until(lambda: server.kubectl("get", "deployment", "small-cpu", "-n", "demo").returncode != 0, "the Deployment of the flavor that left")
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for command in ("operator", "router", "teams"):
            print(command, (server.folder / f"{command}.log").read_text()[-4000:])
        codes = [process.wait(timeout=120) for process in processes]
    assert codes == [0, 0, 0, 0]
    refused = [
        (event["user"]["username"], event["verb"], event["requestURI"])
        for event in server.audit_events()
        if event["user"]["username"].startswith("system:serviceaccount:") and event.get("responseStatus", {}).get("code") in (401, 403)
    ]
    assert refused == []
