"""Certificates, the service-account key and the token file of one control plane, made with openssl.

A CA, a serving certificate for the API server, a client certificate with which it calls kubelets, one signing key for
service-account tokens, and a static token per user. The API server reads the token file at start only, so all users are
given at once.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.lab.steps import sh

DAYS = "365"
SERVICE_IP = "10.96.0.1"


@dataclass(frozen=True, slots=True)
class Pki:
    """The files of a control plane's trust and the token of each user."""

    folder: Path
    tokens: Mapping[str, str]

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def token_file(self) -> Path:
        return self.folder / "tokens.csv"

    def file(self, name: str) -> Path:
        return self.folder / name


def make_pki(folder: Path, users: Mapping[str, str], addresses: Iterable[str] = ()) -> Pki:
    """Create everything in `folder`. `users` maps a user name to its group ("" for none); `addresses` are further IPs of the server."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    ca = ("-CA", folder / "ca.crt", "-CAkey", folder / "ca.key")
    sh("openssl", "req", "-x509", *key, "-days", DAYS, "-subj", "/CN=modelfleet-lab", "-keyout", folder / "ca.key", "-out", folder / "ca.crt")
    names = [f"IP:{a}" for a in ("127.0.0.1", SERVICE_IP, *addresses)]
    names += [f"DNS:{n}" for n in ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")]
    for name, subject, extra in (
        ("apiserver", "/CN=kube-apiserver", f"subjectAltName={','.join(names)}"),
        ("kubelet-client", "/O=system:masters/CN=kube-apiserver", "extendedKeyUsage=clientAuth"),
    ):
        out = ("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt")
        sh("openssl", "req", "-x509", *key, *ca, "-days", DAYS, "-subj", subject, "-addext", extra, "-addext", "basicConstraints=critical,CA:FALSE", *out)
    sh("openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", folder / "sa.key")
    sh("openssl", "ec", "-in", folder / "sa.key", "-pubout", "-out", folder / "sa.pub")
    tokens = {user: secrets.token_hex(16) for user in users}
    rows = [f"{tokens[u]},{u},{u}" + (f',"{g}"' if g else "") for u, g in users.items()]
    (folder / "tokens.csv").write_text("\n".join(rows) + "\n")
    return Pki(folder, tokens)


def load_pki(folder: Path) -> Pki:
    """The trust made earlier in `folder`. Raises FileNotFoundError when there is none."""
    rows = [line.split(",") for line in (folder / "tokens.csv").read_text().splitlines() if line]
    return Pki(folder, {row[1]: row[0] for row in rows})


def write_kubeconfig(path: Path, server: str, ca: Path, user: str, token: str) -> Path:
    """Write a kubeconfig with the CA inline, readable by its owner only."""
    data = base64.b64encode(ca.read_bytes()).decode()
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: modelfleet-lab\n"
        f"clusters:\n- name: modelfleet-lab\n  cluster:\n    server: {server}\n    certificate-authority-data: {data}\n"
        f"users:\n- name: {user}\n  user:\n    token: {token}\n"
        f"contexts:\n- name: modelfleet-lab\n  context:\n    cluster: modelfleet-lab\n    user: {user}\n"
    )
    path.chmod(0o600)
    return path
