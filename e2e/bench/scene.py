"""Everything that is measured, up and running: API server, router beside Envoy, operator, team runtime, and the two stand-ins for pods."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import ssl
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.apiserver import ApiServer

from e2e.lab.steps import LabError, sh, step
from modelfleet.core.render.labels import COMPONENT, GATEWAY_SELECTOR
from modelfleet.core.routing.bootstrap import bootstrap_text

from . import objects
from .processes import ENVOY, Started, free_port, listens, start, until
from .upstream import start_upstream

GATEWAY = "gateway-0"
DECIDE_TIMEOUT_MS = 200
WORKERS = 2
"""As in the chart's values."""


class Scene:
    """Use as a context manager. `profile`: a file for cProfile's figures of the router, which then is slower."""

    def __init__(self, profile: Path | None = None) -> None:
        # paths of Unix sockets have a limit of about a hundred bytes
        self.folder = Path(tempfile.mkdtemp(prefix="mfb-", dir="/tmp"))
        number = os.getpid()
        self.addresses = tuple(f"198.18.{number // 120 % 250}.{number % 120 * 2 + n}" for n in (1, 2))
        self.port, self.http, self.upstream_port = free_port(), free_port(), free_port()
        self.started: dict[str, Started] = {}
        self._profile = profile
        self._server: ApiServer | None = None

    @property
    def server(self) -> ApiServer:
        """The API server. Raises LabError before it is up."""
        if self._server is None:
            raise LabError("the API server is not up")
        return self._server

    def __enter__(self) -> Self:
        try:
            self._up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _up(self) -> None:
        for address in self.addresses:
            # the API server refuses 127.0.0.1 in an EndpointSlice
            sh("ip", "address", "replace", f"{address}/32", "dev", "lo")
        with step("an API server with a fleet"):
            self._server = ApiServer()
            self._server.apply_crds()
            made = objects.everything(self.addresses, self.upstream_port)
            self._server.apply(objects.manifest(made[:2]))
            self._server.apply(objects.manifest(made[2:]))
            self._a_node()
            self._the_gateways_pod()
        with step("router, Envoy, operator, team runtime, upstream"):
            self.started["upstream"] = start_upstream(self.folder, self.addresses, self.upstream_port)
            self._gateway()
            self._operator()
            self._teams()
            until(self._serves, f"an answer from the gateway; logs in {self.folder}/logs", self.started["router"])
            until(lambda: self.metric("modelfleet_operator_leader", self._operator_port) == 1, "a leading operator", self.started["operator"])

    def _gateway(self) -> None:
        run_dir = self.folder / "run"
        run_dir.mkdir()
        environment = {
            "POD_NAME": GATEWAY,
            "MODELFLEET_RUN_DIR": str(run_dir),
            "MODELFLEET_HTTP_HOST": self.addresses[0],
            "MODELFLEET_HTTP_PORT": str(self.http),
            "MODELFLEET_ENVOY_PORT": str(self.port),
            "MODELFLEET_KUBECONFIG": str(self.server.kubeconfig),
            "MODELFLEET_DECIDE_TIMEOUT_MS": str(DECIDE_TIMEOUT_MS),
            "MODELFLEET_DRAIN_SECONDS": "0",
            "MODELFLEET_GRANT_KEYS_DIR": str(self._keys()),
        }
        python: tuple[str | Path, ...] = (sys.executable, "-m", "modelfleet", "router", "--keep")
        if self._profile is not None:
            python = (sys.executable, "-m", "cProfile", "-o", self._profile, "-m", "modelfleet", "router")
        self.started["router"] = start(self.folder, "router", *python, env=environment)
        config = run_dir / "envoy.json"
        config.write_text(bootstrap_text(GATEWAY, str(run_dir)))
        options = ("--concurrency", str(WORKERS), "--use-dynamic-base-id", "--log-level", "warning")
        self.started["envoy"] = start(self.folder, "envoy", ENVOY, "-c", config, *options)

    def _operator(self) -> None:
        self._operator_port = free_port()
        environment = {
            "POD_NAME": "operator-0",
            "MODELFLEET_NAMESPACE": objects.NAMESPACE,
            "MODELFLEET_PORT": str(self._operator_port),
            "MODELFLEET_SCRAPE_PORT": str(self.http),
        }
        command = (sys.executable, "-m", "modelfleet", "operator", "--kubeconfig", self.server.kubeconfig)
        self.started["operator"] = start(self.folder, "operator", *command, env=environment)

    def _teams(self) -> None:
        environment = {
            "POD_NAME": "teams-0",
            "MODELFLEET_GATEWAY_URL": f"http://127.0.0.1:{self.port}",
            "MODELFLEET_JOURNAL": str(self.folder / "journal"),
            "MODELFLEET_GRANT_KEYS_DIR": str(self._keys()),
            "MODELFLEET_TEAMS_PORT": str(free_port()),
            "MODELFLEET_HTTP_HOST": "127.0.0.1",
            "MODELFLEET_KUBECONFIG": str(self.server.kubeconfig),
        }
        self.started["teams"] = start(self.folder, "teams", sys.executable, "-m", "modelfleet", "teams", env=environment)

    def _keys(self) -> Path:
        folder = self.folder / "keys"
        if not folder.exists():
            folder.mkdir()
            (folder / "1").write_text(secrets.token_hex(32))
        return folder

    def _a_node(self) -> None:
        amounts = {"cpu": "64", "memory": "256Gi", "pods": "110", "example.com/gpu": "32"}
        status = {"capacity": amounts, "allocatable": amounts, "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ok"}]}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "bench-node", "labels": {"example.com/card": "bench"}}}
        self.server.kubectl("create", "-f", "-", input=json.dumps(node), check=True)
        self.server.kubectl("patch", "node", "bench-node", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}), check=True)
        # admission adds not-ready to new nodes; no controller takes it away
        self.server.kubectl("patch", "node", "bench-node", "--type=merge", "-p", json.dumps({"spec": {"taints": None}}), check=True)

    def _the_gateways_pod(self) -> None:
        """Without one the operator takes the router's entries in status for those of a pod that is gone."""
        labels = dict(pair.split("=", 1) for pair in GATEWAY_SELECTOR.split(",")) | {COMPONENT: "gateway"}
        spec = {"nodeName": "bench-node", "containers": [{"name": "router", "image": "none"}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": GATEWAY, "namespace": objects.NAMESPACE, "labels": labels}, "spec": spec}
        ready = {"type": "Ready", "status": "True"}
        status = {"phase": "Running", "podIP": self.addresses[0], "podIPs": [{"ip": self.addresses[0]}], "conditions": [ready]}
        self.server.kubectl("create", "-f", "-", input=json.dumps(pod), check=True)
        patch = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
        self.server.kubectl("patch", "pod", GATEWAY, "-n", objects.NAMESPACE, *patch, check=True)

    def _serves(self) -> bool:
        if not listens("127.0.0.1", self.port):
            return False
        answers = [self.ask(model) for model in ("decided", "compiled", "moving", "follow-decided", "follow-compiled")]
        return all(status == 200 for status, _ in answers)

    def ask(self, model: str) -> tuple[int, dict[str, str]]:
        """One request through the gateway on a connection of its own: status and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", "/v1/chat/completions", objects.body(model), {"content-type": "application/json"})
            response = connection.getresponse()
            response.read()
            return response.status, {k.lower(): v for k, v in response.getheaders()}
        except (OSError, http.client.HTTPException):
            return 0, {}
        finally:
            connection.close()

    def metric(self, name: str, port: int) -> float:
        """A series without labels of the process whose metrics are at that port of loopback; 0 when there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        except OSError:
            return 0.0
        finally:
            connection.close()
        return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)

    def patcher(self) -> Patcher:
        """A connection for changes."""
        return Patcher(self.server)

    def close(self) -> None:
        """Stop everything that runs and take the addresses away."""
        for name in reversed(list(self.started)):
            self.started.pop(name).stop()
        if self._server is not None:
            self._server.close()
        for address in self.addresses:
            with suppress(OSError):
                subprocess.run(["ip", "address", "del", f"{address}/32", "dev", "lo"], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


class Patcher:
    """Merge patches on one connection that stays open, so that the clock measures no handshake."""

    def __init__(self, server: ApiServer) -> None:
        url = urlsplit(server.url)
        trust = ssl.create_default_context(cafile=str(server.ca_file))
        self._connection = http.client.HTTPSConnection(str(url.hostname), url.port, context=trust, timeout=30)
        self._headers = {"authorization": f"Bearer {server.token}", "content-type": "application/merge-patch+json", "user-agent": "bench"}

    def patch(self, path: str, change: dict[str, Any]) -> dict[str, Any]:
        """Change one object; what the API server answers. Raises LabError when it refuses."""
        self._connection.request("PATCH", path, json.dumps(change), self._headers)
        response = self._connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise LabError(f"PATCH {path}: {response.status} {text[:500].decode(errors='replace')}")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def close(self) -> None:
        self._connection.close()
