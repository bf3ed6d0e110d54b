"""Build the control plane, etcd and helm from their Go modules; cached by version, safe to call from several processes.

There is no binary download: `go` fetches modules, checks them against the checksum database and builds static binaries.
What is decided here is only the recipe; where the binaries lie is `binary(name)`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.lab import versions
from e2e.lab.paths import cache_dir
from e2e.lab.steps import LabError, sh, step


@dataclass(frozen=True, slots=True)
class GoModule:
    """A module to require, the packages to build from it and how it is told its own version."""

    path: str
    version: str
    commands: dict[str, str]
    ldflags: str = ""
    staging: str = ""


_MAJOR, _MINOR = versions.KUBERNETES.removeprefix("v").split(".")[:2]
_K8S_VERSION = "k8s.io/component-base/version"

MODULES: tuple[GoModule, ...] = (
    GoModule(
        path="k8s.io/kubernetes",
        version=versions.KUBERNETES,
        commands={c: f"k8s.io/kubernetes/cmd/{c}" for c in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")},
        ldflags=f"-X {_K8S_VERSION}.gitVersion={versions.KUBERNETES} -X {_K8S_VERSION}.gitMajor={_MAJOR} -X {_K8S_VERSION}.gitMinor={_MINOR}",
        staging=versions.KUBERNETES_STAGING,
    ),
    GoModule(path="go.etcd.io/etcd/server/v3", version=versions.ETCD, commands={"etcd": "go.etcd.io/etcd/server/v3"}),
    GoModule(
        path="helm.sh/helm/v3",
        version=versions.HELM,
        commands={"helm": "helm.sh/helm/v3/cmd/helm"},
        ldflags=f"-X helm.sh/helm/v3/internal/version.version={versions.HELM}",
    ),
)
ASKED_FOR: tuple[GoModule, ...] = (
    GoModule(path="github.com/tsenart/vegeta/v12", version=versions.VEGETA, commands={"vegeta": "github.com/tsenart/vegeta/v12"}),
)
"""Built only where they are named: the lab needs none of them."""


def binary(name: str) -> Path:
    """The path of a built binary, whether or not it has been built. Raises KeyError for a name no module builds."""
    module = next((m for m in (*MODULES, *ASKED_FOR) if name in m.commands), None)
    if module is None:
        raise KeyError(name)
    return cache_dir() / "bin" / module.version / name


def ensure_binaries(names: Iterable[str] | None = None) -> None:
    """Build what is missing among `names` (all that the lab needs when None). Raises LabError when Go is absent or a build fails."""
    wanted = set(names) if names is not None else {c for m in MODULES for c in m.commands}
    for module in (*MODULES, *ASKED_FOR):
        missing = [c for c in module.commands if c in wanted and not binary(c).exists()]
        if missing:
            with locked(f"build-{module.version}"):
                _build(module, [c for c in missing if not binary(c).exists()])


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold an exclusive lock of that name in the cache, so that two processes never build the same thing."""
    folder = cache_dir() / "locks"
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(module: GoModule, commands: list[str]) -> None:
    if not commands:
        return
    if shutil.which("go") is None:
        raise LabError(f"go is not installed: install Go {versions.GO_DIRECTIVE} or newer and run this again")
    folder = cache_dir() / "build" / f"{module.path.replace('/', '_')}-{module.version}"
    folder.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    with step(f"go modules of {module.path} {module.version}"):
        _write_module(module, folder, env)
        sh("go", "mod", "tidy", cwd=folder, env=env)
    for command in commands:
        target = binary(command)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        with step(f"build {command} {module.version}"):
            flags = f"-s -w {module.ldflags}".strip()
            sh("go", "build", "-trimpath", "-ldflags", flags, "-o", partial, module.commands[command], cwd=folder, env=env)
            partial.rename(target)


def _write_module(module: GoModule, folder: Path, env: dict[str, str]) -> None:
    lines = [
        "module modelfleet.dev/lab/" + re.sub(r"[^a-z0-9]+", "-", module.path.lower()),
        f"go {versions.GO_DIRECTIVE}",
        f"require {module.path} {module.version}",
    ]
    if module.staging:
        # Kubernetes requires its staging modules at v0.0.0 and replaces them by folders; a consumer must name the published ones.
        told = json.loads(sh("go", "mod", "download", "-json", f"{module.path}@{module.version}", cwd=folder, env=env).stdout)
        names = re.findall(r"^\t(k8s\.io/[a-z0-9-]+) => \./staging", (Path(told["Dir"]) / "go.mod").read_text(), re.MULTILINE)
        lines += ["replace (", *(f"\t{n} => {n} {module.staging}" for n in names), ")"]
    (folder / "go.mod").write_text("\n".join(lines) + "\n")
    imports = "\n".join(f'\t_ "{p}"' for p in module.commands.values())
    (folder / "tools.go").write_text(f"//go:build tools\n\npackage tools\n\nimport (\n{imports}\n)\n")
