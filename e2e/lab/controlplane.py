"""A Kubernetes control plane in one folder: etcd and kube-apiserver, with controller-manager and scheduler on request.

Used twice: by the lab (long-lived, bound to the lab bridge) and by the test fixture (loopback, dies with pytest). What differs
is told by `Settings`; nothing here knows about nodes or images.
"""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.lab.binaries import binary
from e2e.lab.pki import Pki, load_pki, make_pki, write_kubeconfig
from e2e.lab.processes import Process, plain_env
from e2e.lab.steps import LabError

SERVICE_CIDR = "10.96.0.0/16"
POD_CIDR = "10.244.0.0/16"
READY_SECONDS = 90.0

SYSTEM_USERS: Mapping[str, str] = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "system:kube-proxy": "",
}

AUDIT_POLICY = """apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: ["/healthz*", "/readyz*", "/livez*", "/openapi*"]
- level: None
  users: ["system:apiserver"]
- level: Metadata
  resources:
  - group: ""
    resources: [secrets]
- level: Request
  verbs: [create, update, patch, delete, deletecollection]
- level: Metadata
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """What distinguishes one control plane from another. Ports of 0 are replaced by free ones."""

    api_port: int = 0
    etcd_port: int = 0
    etcd_peer_port: int = 0
    advertise: str = ""  # the address pods reach; empty for a control plane without nodes
    users: Mapping[str, str] = field(default_factory=dict)
    controllers: bool = False
    scheduler: bool = False
    audit: bool = True
    service_account_admission: bool = True
    die_with_parent: bool = False
    extra_apiserver_flags: tuple[str, ...] = ()


class ControlPlane:
    """etcd, kube-apiserver and friends of one state folder; every method may be called from a later process."""

    def __init__(self, state: Path) -> None:
        """Point at a state folder; `create` fills it."""
        self.state = state
        self._facts: dict[str, Any] | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._settings().api_port}"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "admin.kubeconfig"

    @property
    def audit_log(self) -> Path:
        return self.state / "logs" / "audit.log"

    @property
    def pki(self) -> Pki:
        return load_pki(self.state / "pki")

    def process(self, name: str) -> Process:
        return Process(self.state, name)

    @property
    def process_names(self) -> tuple[str, ...]:
        """In the order of starting."""
        s = self._settings()
        names = ["etcd", "kube-apiserver"]
        return (*names, *(["kube-controller-manager"] if s.controllers else []), *(["kube-scheduler"] if s.scheduler else []))

    def create(self, settings: Settings) -> None:
        """Write trust, kubeconfigs and settings into the folder, unless it has them already."""
        if (self.state / "settings.json").exists():
            return
        self.state.mkdir(parents=True, exist_ok=True)
        (self.state / "logs").mkdir(exist_ok=True)
        ports = _free_ports(3)
        chosen = {
            "api_port": settings.api_port or ports[0],
            "etcd_port": settings.etcd_port or ports[1],
            "etcd_peer_port": settings.etcd_peer_port or ports[2],
        }
        facts = {name: getattr(settings, name) for name in Settings.__dataclass_fields__} | chosen
        users = {**SYSTEM_USERS, **settings.users}
        trust = make_pki(self.state / "pki", users, [settings.advertise] if settings.advertise else [])
        (self.state / "audit-policy.yaml").write_text(AUDIT_POLICY)
        self._facts = facts
        for user in users:
            self.write_kubeconfig(self.state / f"{user.replace(':', '-')}.kubeconfig", user, trust=trust)
        (self.state / "settings.json").write_text(json.dumps(facts, default=dict, sort_keys=True))

    def write_kubeconfig(self, path: Path, user: str, server: str = "", trust: Pki | None = None) -> Path:
        """A kubeconfig for one of the users named at creation. Raises KeyError for another."""
        trust = trust or self.pki
        return write_kubeconfig(path, server or self.url, trust.ca, user, trust.tokens[user])

    def start(self) -> None:
        """Start what does not run and wait until the API server answers /readyz. Raises LabError with its log otherwise."""
        s = self._settings()
        die = s.die_with_parent
        self.process("etcd").start(binary("etcd"), *_etcd_flags(self.state, s), die_with_parent=die, env=plain_env())
        self.process("kube-apiserver").start(binary("kube-apiserver"), *self._apiserver_flags(s), die_with_parent=die, env=plain_env())
        self.wait_ready()
        for name in self.process_names[2:]:
            self.process(name).start(binary(name), *self._component_flags(name), die_with_parent=die, env=plain_env())

    def stop(self) -> None:
        """Stop everything, last started first; etcd's data stays."""
        for name in reversed(self.process_names):
            self.process(name).stop()

    def pause(self) -> None:
        """Freeze the API server (SIGSTOP): connections stay open and nothing answers."""
        self.process("kube-apiserver").signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Thaw the API server."""
        self.process("kube-apiserver").signal(signal.SIGCONT)

    def ready(self) -> bool:
        """Whether /readyz says ok now."""
        context = ssl.create_default_context(cafile=str(self.pki.ca))
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2, context=context) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait for /readyz. Raises LabError when a process died meanwhile or time ran out."""
        deadline = time.monotonic() + seconds
        while not self.ready():
            for name in ("etcd", "kube-apiserver"):
                self.process(name).check()
            if time.monotonic() > deadline:
                raise LabError(f"kube-apiserver was not ready after {seconds:.0f} s; see {self.process('kube-apiserver').log}")
            time.sleep(0.1)

    def kubectl(
        self,
        *args: str | Path,
        input: str | None = None,  # noqa: A002 the name subprocess.run gives it
        check: bool = True,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as admin. With `check`, raises LabError with kubectl's message when it fails."""
        argv = [str(binary("kubectl")), f"--kubeconfig={self.kubeconfig}", *(str(a) for a in args)]
        done = subprocess.run(argv, input=input, capture_output=True, text=True, timeout=timeout, check=False, env=plain_env())
        if check and done.returncode != 0:
            raise LabError(f"kubectl {' '.join(argv[2:6])}: {done.stderr.strip()}")
        return done

    def _settings(self) -> Settings:
        if self._facts is None:
            self._facts = json.loads((self.state / "settings.json").read_text())
        facts = dict(self._facts)
        facts["extra_apiserver_flags"] = tuple(facts["extra_apiserver_flags"])
        return Settings(**facts)

    def _apiserver_flags(self, s: Settings) -> list[str]:
        trust = self.state / "pki"
        flags = [
            f"--etcd-servers=http://127.0.0.1:{s.etcd_port}",
            f"--secure-port={s.api_port}",
            "--authorization-mode=Node,RBAC",
            f"--token-auth-file={trust / 'tokens.csv'}",
            f"--client-ca-file={trust / 'ca.crt'}",
            f"--tls-cert-file={trust / 'apiserver.crt'}",
            f"--tls-private-key-file={trust / 'apiserver.key'}",
            f"--kubelet-client-certificate={trust / 'kubelet-client.crt'}",
            f"--kubelet-client-key={trust / 'kubelet-client.key'}",
            # node names do not resolve here: without this, logs and exec fail
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={trust / 'sa.pub'}",
            f"--service-account-signing-key-file={trust / 'sa.key'}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--allow-privileged=true",
        ]
        if s.advertise:
            flags += ["--bind-address=0.0.0.0", f"--advertise-address={s.advertise}"]
        else:
            flags += ["--bind-address=127.0.0.1", "--endpoint-reconciler-type=none"]
        if not s.service_account_admission:
            flags.append("--disable-admission-plugins=ServiceAccount")
        if s.audit:
            flags += [f"--audit-policy-file={self.state / 'audit-policy.yaml'}", f"--audit-log-path={self.audit_log}"]
        return [*flags, *s.extra_apiserver_flags]

    def _component_flags(self, name: str) -> list[str]:
        config = self.state / f"system-{name}.kubeconfig"
        flags = [f"--kubeconfig={config}", "--leader-elect=false", "--bind-address=127.0.0.1", f"--secure-port={_free_ports(1)[0]}"]
        if name == "kube-controller-manager":
            trust = self.state / "pki"
            flags += [
                f"--service-account-private-key-file={trust / 'sa.key'}",
                f"--root-ca-file={trust / 'ca.crt'}",
                f"--service-cluster-ip-range={SERVICE_CIDR}",
                f"--cluster-cidr={POD_CIDR}",
                "--use-service-account-credentials=true",
            ]
        return flags


def _etcd_flags(state: Path, s: Settings) -> list[str]:
    client, peer = f"http://127.0.0.1:{s.etcd_port}", f"http://127.0.0.1:{s.etcd_peer_port}"
    return [
        f"--data-dir={state / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()
