"""The cluster under test: the lab (default), or with CLUSTER=current whatever the present kubeconfig context points at."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from e2e.lab import Lab

ROOT = Path(__file__).resolve().parents[1]


class ClusterError(RuntimeError):
    """A command against the cluster failed; the message carries the command and its last words."""


@dataclass
class Cluster:
    """kubectl and helm bound to one kubeconfig; ``lab`` is None on a cluster of the user's own."""

    kubectl_bin: str
    helm_bin: str
    kubeconfig: str | None
    lab: Lab | None
    _forwards: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    def selected(cls) -> Cluster:
        """The cluster that CLUSTER names: ``lab`` or ``current``."""
        choice = os.environ.get("CLUSTER", "lab")
        if choice == "current":
            return cls("kubectl", "helm", os.environ.get("KUBECONFIG"), None)
        if choice != "lab":
            raise ClusterError(f"CLUSTER={choice}: write CLUSTER=lab or CLUSTER=current")
        lab = Lab.current()
        return cls(str(lab.binary("kubectl")), str(lab.binary("helm")), str(lab.kubeconfig), lab)

    def run(self, *argv: str, stdin: str | None = None, check: bool = True, timeout: float = 420) -> subprocess.CompletedProcess[str]:
        """Run a command with this cluster's KUBECONFIG; raises ClusterError with its last words."""
        env = dict(os.environ)
        if self.kubeconfig:
            env["KUBECONFIG"] = self.kubeconfig
        try:
            done = subprocess.run(argv, input=stdin, capture_output=True, text=True, env=env, timeout=timeout, check=False)
        except FileNotFoundError as error:
            raise ClusterError(f"{argv[0]} is not installed; with CLUSTER=current the demo uses your own kubectl and helm") from error
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"`{' '.join(argv)}` did not end within {timeout:.0f} s") from error
        if check and done.returncode != 0:
            raise ClusterError(f"`{' '.join(argv)}` failed:\n{(done.stderr or done.stdout).strip()[-2000:]}")
        return done

    def kubectl(self, *argv: str, stdin: str | None = None, check: bool = True, timeout: float = 420) -> str:
        """stdout of kubectl."""
        return self.run(self.kubectl_bin, *argv, stdin=stdin, check=check, timeout=timeout).stdout

    def helm(self, *argv: str, timeout: float = 600) -> str:
        """stdout of helm."""
        return self.run(self.helm_bin, *argv, timeout=timeout).stdout

    def get(self, what: str, name: str | None = None, namespace: str | None = None, selector: str | None = None) -> dict[str, Any]:
        """An object or a list, as JSON."""
        argv = [
            "get",
            what,
            *([name] if name else []),
            "-o",
            "json",
            "--show-managed-fields",
            *(["-n", namespace] if namespace else []),
            *(["-l", selector] if selector else []),
        ]
        return json.loads(self.kubectl(*argv))

    def service_url(self, namespace: str, name: str, port: int) -> str:
        """A URL at which the Service answers from here: its ClusterIP in the lab, a port-forward elsewhere."""
        if self.lab is not None:
            address = self.get("service", name, namespace)["spec"]["clusterIP"]
            return f"http://{address}:{port}"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            local = probe.getsockname()[1]
        argv = [self.kubectl_bin, "-n", namespace, "port-forward", f"service/{name}", f"{local}:{port}"]
        self._forwards.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        url = f"http://127.0.0.1:{local}"
        wait_until(lambda: _answers(url), 20, f"{url} (port-forward of {namespace}/{name}) to answer")
        return url

    def close(self) -> None:
        """End the port-forwards this object started."""
        for process in self._forwards:
            process.terminate()
            process.wait(timeout=5)
        self._forwards.clear()


def _answers(url: str) -> bool:
    try:
        httpx.get(url, timeout=2)
    except httpx.HTTPError:
        return False
    return True


def wait_until(condition: Any, timeout: float, what: str, every: float = 0.5, explain: Any = None) -> Any:
    """Poll until ``condition()`` is truthy and return its value; raises ClusterError saying what was waited for and what is there instead.

    A command that fails meanwhile (a ClusterError) is tried again like one that finds nothing.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            if value := condition():
                return value
        except ClusterError:
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            seen = f"; seen instead: {explain()}" if explain else ""
            raise ClusterError(f"waited {timeout:.0f} s for {what}{seen}")
        time.sleep(every)
