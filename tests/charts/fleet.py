"""Objects that make the product's processes do something, and the processes together, with an Envoy for the router."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.charts.rights import NAMESPACE, Ground
from tests.support.apiserver import CHECKOUT
from tests.support.envoy import BINARY, free_port

COMMANDS = {"operator": "operator", "gateway": "router", "teams": "teams"}
"""Account -> the command that runs as it."""
OURS = "/apis/modelfleet.dev/v1alpha1/namespaces/demo"
APPLY = "application/apply-patch+yaml"


@dataclass
class Fleet:
    """Each call makes a new object; all may be reached by name. ``endpoint``: where remote pools point. ``key``, ``grant_key``: what their Secrets hold."""

    ground: Ground
    run_dir: Path
    endpoint: str = "https://models.example.com/v1"
    key: str = "opaque"
    grant_key: str = "k" * 48
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in ("operator", "scrape", "router", "envoy", "teams")})

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)

    def _apply(self, kind: str, plural: str, spec: dict[str, Any]) -> str:
        name = f"{kind.lower()}-{next(self._numbers)}"
        body = {"apiVersion": "modelfleet.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": "demo"}, "spec": spec}
        self.ground.call("PATCH", f"{OURS}/{plural}/{name}?fieldManager=test&force=true", body, APPLY)
        return name

    def node(self) -> str:
        name, card = f"node-{next(self._numbers)}", {"kubernetes.io/arch": "amd64", "nvidia.com/gpu.product": "NVIDIA-L4"}
        amounts = {"cpu": "8", "memory": "32Gi", "pods": "50", "nvidia.com/gpu": "8"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ok"}
        status = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
        self.ground.call("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": card}, "status": status})
        self.ground.call("PATCH", f"/api/v1/nodes/{name}", {"spec": {"taints": None}}, "application/merge-patch+json")
        return name

    def pool(self) -> str:
        flavors = [{"name": "l4", "acceleratorClass": "nvidia-l4", "devices": 1}, {"name": "cpu", "acceleratorClass": "cpu"}]
        engine = {"type": "LlamaCpp", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}
        return self._apply("ModelPool", "modelpools", {"model": {"name": "m", "source": "hf://org/m"}, "engine": engine, "flavors": flavors, "replicas": 1})

    def smaller_pool(self, name: str) -> None:
        """A flavor leaves the pool."""
        self.ground.call("PATCH", f"{OURS}/modelpools/{name}", [{"op": "remove", "path": "/spec/flavors/1"}], "application/json-patch+json")

    def remote_pool(self) -> str:
        """A pool of an endpoint, with a Secret of its own."""
        secret = f"key-{next(self._numbers)}"
        self.ground.call("POST", "/api/v1/namespaces/demo/secrets", {"metadata": {"name": secret}, "stringData": {"token": self.key}})
        endpoint = {"url": self.endpoint, "model": "m", "authSecretRef": {"name": secret, "key": "token"}, "concurrency": 1}
        endpoint["price"] = {"inputPerMillion": "1", "outputPerMillion": "1"}
        return self._apply(
            "ModelPool", "modelpools", {"model": {"name": "m", "source": "hf://org/m"}, "flavors": [{"name": "far", "endpoint": endpoint}], "replicas": 0}
        )

    def policy(self) -> str:
        pool, name = self.remote_pool(), f"entry-{next(self._numbers)}"
        spec = {"entrypoints": [{"name": name}], "candidates": [{"name": "it", "poolRef": {"name": pool}}], "default": {"chain": ["it"]}}
        return self._apply("RoutingPolicy", "routingpolicies", spec)

    def team(self) -> str:
        role = {"name": "writer", "modelFrom": {"modelPoolRef": {"name": self.remote_pool()}}, "sampling": {"maxTokens": 16}}
        strategy = {"chain": {"steps": [{"name": "write", "role": "writer"}]}}
        return self._apply("AgentTeam", "agentteams", {"roles": [role], "strategy": strategy, "budget": {"perRun": {"cost": "0.10", "wallClock": "5m"}}})

    def has(self, path: str) -> bool:
        return self.ground.server.kubectl("get", "--raw", path).returncode == 0

    @contextlib.contextmanager
    def running(self, *accounts: str, **more: Mapping[str, str]) -> Iterator[None]:
        """The processes of these accounts, and an Envoy for the router; ``more`` variables by account."""
        ports = {name: str(port) for name, port in self.ports.items()}
        keys = {"MODELFLEET_GRANT_KEYS_DIR": str(self._keys())}
        lease = {"MODELFLEET_LEASE_RENEW": "0.5", "MODELFLEET_LEASE_DEADLINE": "100", "MODELFLEET_LEASE_DURATION": "120"}
        settings = {
            "operator": {"MODELFLEET_PORT": ports["operator"], "MODELFLEET_SCRAPE_PORT": ports["scrape"], **lease},
            "gateway": {
                "MODELFLEET_RUN_DIR": str(self.run_dir), "MODELFLEET_HTTP_PORT": ports["router"], "MODELFLEET_ENVOY_PORT": ports["envoy"],
                "MODELFLEET_DECIDE_TIMEOUT_MS": "20000", **keys,
            },
            "teams": {
                "MODELFLEET_TEAMS_PORT": ports["teams"], "MODELFLEET_GATEWAY_URL": f"http://127.0.0.1:{ports['envoy']}",
                "MODELFLEET_JOURNAL": str(self.run_dir / "journal.sqlite"), **keys,
            },
        }  # fmt: skip
        if "operator" in accounts:  # nobody gave it back
            self.ground.server.kubectl("delete", "lease", "modelfleet-operator", "-n", NAMESPACE, "--ignore-not-found", check=True)
        with contextlib.ExitStack() as stack:
            for account in accounts:
                stack.enter_context(self.ground.running(COMMANDS[account], account, **settings[account], **more.get(account, {})))
            if "gateway" in accounts:
                stack.enter_context(self._envoy())
            yield

    def _keys(self) -> Path:
        folder = self.run_dir / "grants"
        folder.mkdir(exist_ok=True)
        (folder / "current").write_text(self.grant_key)
        return folder

    @contextlib.contextmanager
    def _envoy(self) -> Iterator[None]:
        bootstrap = self.run_dir / "envoy.yaml"
        bootstrap.write_text((CHECKOUT / "charts" / "modelfleet" / "files" / "envoy.yaml").read_text().replace("/run/modelfleet", str(self.run_dir)))
        argv = [str(BINARY), "-c", str(bootstrap), "--service-node", "pod-7", "--concurrency", "1", "--disable-hot-restart", "--log-level", "info"]
        with self.ground.log("envoy").open("ab") as log:
            process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *argv], stdout=log, stderr=log)
        try:
            yield
        finally:
            process.kill()
            process.wait()
