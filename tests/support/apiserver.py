"""A real API server for tests: etcd and kube-apiserver on free loopback ports, independent of the lab's cluster.

No nodes, and no controllers unless asked for: what a test creates stays exactly as it created it. The kernel kills the
processes with pytest (`PDEATHSIG`), whatever ends it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from e2e.lab.binaries import ensure_binaries
from e2e.lab.controlplane import ControlPlane, Settings

CHECKOUT = Path(__file__).resolve().parents[2]
CRDS = CHECKOUT / "crds"


class ApiServer:
    """One API server that a test may use, take away and give back."""

    def __init__(self, controllers: bool = False, scheduler: bool = False, users: dict[str, str] | None = None, flags: tuple[str, ...] = ()) -> None:
        """Start it. `controllers` and `scheduler` run beside it; `users` (name to group) get tokens of their own."""
        ensure_binaries(["etcd", "kube-apiserver", "kubectl", *(["kube-controller-manager"] * controllers), *(["kube-scheduler"] * scheduler)])
        self.folder = Path(tempfile.mkdtemp(prefix="modelfleet-api-"))
        self._plane = ControlPlane(self.folder)
        self._plane.create(
            Settings(
                users=users or {},
                controllers=controllers,
                scheduler=scheduler,
                # without a controller manager nobody makes the default ServiceAccount, and no pod could be created
                service_account_admission=controllers,
                die_with_parent=True,
                extra_apiserver_flags=flags,
            )
        )
        self.tokens = dict(self._plane.pki.tokens)
        try:
            self._plane.start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """https://127.0.0.1:<port>, the same after stop and start."""
        return self._plane.url

    @property
    def token(self) -> str:
        """The bearer token of `admin` (system:masters)."""
        return self.tokens["admin"]

    @property
    def ca_file(self) -> Path:
        return self._plane.pki.ca

    @property
    def kubeconfig(self) -> Path:
        return self._plane.kubeconfig

    @property
    def audit_log(self) -> Path:
        """Audit events as JSON lines: writes with their request body, reads as metadata; written when the answer is sent."""
        return self._plane.audit_log

    def kubeconfig_of(self, user: str) -> Path:
        """The kubeconfig of one of the `users` given at creation."""
        return self.folder / f"{user.replace(':', '-')}.kubeconfig"

    def kubectl(self, *args: str | Path, input: str | None = None, check: bool = False) -> CompletedProcess[str]:  # noqa: A002 as subprocess.run
        """Run kubectl as admin and return what it said; raises only with `check`."""
        return self._plane.kubectl(*args, input=input, check=check)

    def apply(self, manifest: str) -> CompletedProcess[str]:
        """Server-side apply of YAML; raises when refused."""
        return self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=manifest, check=True)

    def get(self, *args: str) -> Any:
        """`kubectl get ... -o json`, parsed; raises when there is no such thing."""
        return json.loads(self.kubectl("get", *args, "-o", "json", check=True).stdout)

    def audit_events(self) -> list[dict[str, Any]]:
        """All audit events so far."""
        if not self.audit_log.exists():
            return []
        return [json.loads(line) for line in self.audit_log.read_text().splitlines() if line.endswith("}")]

    def apply_crds(self, folder: Path = CRDS) -> None:
        """Apply the checkout's CRDs and wait until they are Established. Raises FileNotFoundError when there are none."""
        files = sorted(folder.glob("*.yaml"))
        if not files:
            raise FileNotFoundError(f"no CRDs in {folder}: run `modelfleet crds` first")
        for file in files:
            self.kubectl("apply", "--server-side", "--force-conflicts", "-f", file, check=True)
        for file in files:
            # a CRD without any status yet is an error to `kubectl wait`, so it is asked again
            for _ in range(20):
                if self.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", file).returncode == 0:
                    break
                time.sleep(0.5)
            else:
                self.kubectl("wait", "--for=condition=Established", "--timeout=5s", "-f", file, check=True)

    def pause(self) -> None:
        """Freeze the API server: connections stay open, nothing answers."""
        self._plane.pause()

    def resume(self) -> None:
        self._plane.resume()

    def stop(self) -> None:
        """Stop the API server (not etcd): connections are refused, objects stay."""
        self._plane.process("kube-apiserver").stop(grace=3.0)

    def start(self) -> None:
        """Start it again on the same port with the same objects; returns when ready."""
        self._plane.start()

    def close(self) -> None:
        """Kill everything and delete the folder."""
        for name in reversed(self._plane.process_names):
            self._plane.process(name).stop(grace=0.0)
        shutil.rmtree(self.folder, ignore_errors=True)
