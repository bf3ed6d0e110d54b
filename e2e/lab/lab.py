"""The lab as a whole: bring it up, take it down, and the handle that tests and the demo hold.

`up` asks of every part whether it stands and makes what does not, so that a healthy lab costs a look and a half-dead one is
repaired. `down` goes the other way and does not need the API server to be alive.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from e2e.lab import cgroups, nodes
from e2e.lab.binaries import binary, ensure_binaries, locked
from e2e.lab.controlplane import POD_CIDR, ControlPlane, Settings
from e2e.lab.images import build_images
from e2e.lab.layout import Image
from e2e.lab.network import HOST_ADDRESS, network_down, network_up
from e2e.lab.node import NodeHost, remove_private_places
from e2e.lab.nodes import GPU_RESOURCE, NodeSpec, parse_nodes
from e2e.lab.packages import ensure_packages
from e2e.lab.paths import cache_dir, state_dir
from e2e.lab.processes import Process
from e2e.lab.provider import LIMIT_PER_MINUTE, Provider
from e2e.lab.steps import LabError, done, step

API_PORT = 16443
NODE_READY_SECONDS = 120.0


class Lab:
    """One lab by name. Only one can be up in a network namespace, since service rules belong to the host."""

    def __init__(self, name: str = "") -> None:
        """Point at a lab, up or not; the default name is `$MODELFLEET_LAB` or `main`."""
        self.name = name or os.environ.get("MODELFLEET_LAB") or "main"
        self.state = state_dir(self.name)
        self.plane = ControlPlane(self.state)

    @classmethod
    def current(cls, name: str = "") -> Lab:
        """The running lab. Raises LabError with what to do when there is none."""
        lab = cls(name)
        if not lab.exists or not lab.plane.ready():
            raise LabError("the lab is not up: run `python -m e2e.lab up` (as root)")
        return lab

    @property
    def exists(self) -> bool:
        return (self.state / "lab.json").exists()

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.plane.kubeconfig

    @property
    def specs(self) -> tuple[NodeSpec, ...]:
        return parse_nodes(json.loads((self.state / "lab.json").read_text())["nodes"])

    @property
    def hosts(self) -> tuple[NodeHost, ...]:
        return tuple(NodeHost(self.name, self.state, spec) for spec in self.specs)

    @property
    def images(self) -> dict[str, str]:
        """References by name: modelfleet, envoy, engine, pause; loaded into every node."""
        return dict(json.loads((self.state / "images.json").read_text()))

    @property
    def provider(self) -> Provider:
        return Provider(self.state)

    @staticmethod
    def binary(name: str) -> Path:
        """The path of kubectl, helm, ... as the lab built them. Raises KeyError for one it does not build."""
        return binary(name)

    def kubectl(
        self,
        *args: str | Path,
        input: str | None = None,  # noqa: A002 the name subprocess.run gives it
        check: bool = True,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator. With `check`, raises LabError with its message when it fails."""
        return self.plane.kubectl(*args, input=input, check=check, timeout=timeout)

    def get(self, *args: str) -> Any:
        """`kubectl get ... -o json`, parsed. Raises LabError when there is no such thing."""
        return json.loads(self.kubectl("get", *args, "-o", "json").stdout)

    def apply(self, manifest: str) -> None:
        """Server-side apply of YAML. Raises LabError when refused."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=manifest)

    def node(self, name: str) -> Any:
        """The Node object."""
        return self.get("node", name)

    def set_devices(self, name: str, count: int, resource: str = GPU_RESOURCE) -> None:
        """Set the devices a node offers: what the next pod finds; a pod that runs stays."""
        amount = {resource: str(count)}
        patch = json.dumps({"status": {"capacity": amount, "allocatable": amount}})
        self.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", patch)

    def restore(self) -> None:
        """Devices and the provider's limit as they were when the lab came up: a test that was cut off may have left them otherwise."""
        for spec in self.specs:
            if spec.devices:
                self.set_devices(spec.name, spec.devices)
        self.provider.configure(limit=LIMIT_PER_MINUTE)

    def load(self, archive: Path) -> str:
        """Import an image archive into every node; returns its reference."""
        with tarfile.open(archive) as tar:
            manifest = tar.extractfile("manifest.json")
            tags = json.load(manifest)[0]["RepoTags"] if manifest else []
        if not tags:
            raise LabError(f"{archive} names no image: save it with a tag")
        for host in self.hosts:
            host.load_archive(archive)
        return str(tags[0])

    def build(self, quiet: bool = True) -> dict[str, str]:
        """Build changed images, load them if the lab is up, and remember the references."""
        images = build_images(quiet)
        if self.exists:
            self._load(list(images.values()))
        self.state.mkdir(parents=True, exist_ok=True)
        refs = {image.name: image.ref for image in images.values()}
        (self.state / "images.json").write_text(json.dumps(refs, sort_keys=True))
        return refs

    def up(self, wanted: str = "") -> None:
        """Bring the lab to its whole self. Raises LabError with what to do when a part cannot be had."""
        if os.geteuid() != 0:
            raise LabError("the lab needs root for containers and the network: run this with sudo, or use a cluster of yours with CLUSTER=current")
        with locked(f"lab-{self.name}"):
            if self.exists and wanted and parse_nodes(wanted) != self.specs:
                self._down()
            ensure_packages()
            ensure_binaries()
            images = build_images()
            self.state.mkdir(parents=True, exist_ok=True)
            if not self.exists:
                (self.state / "lab.json").write_text(json.dumps({"nodes": wanted or nodes.DEFAULT}))
            with step(f"network {HOST_ADDRESS}"):
                network_up(self.state, [s.address for s in self.specs])
            self._start_control_plane()
            self._start_nodes(images)
            with step("kube-proxy"):
                self.process("kube-proxy").start(binary("kube-proxy"), *self._proxy_flags())
            with step(f"remote provider {self.provider.url}"):
                self.provider.start()
            with step("nodes Ready with their devices"):
                self._wait_nodes()

    def down(self, purge: bool = False) -> None:
        """Leave nothing: no process, mount, link, rule, cgroup or state. The nodes' unpacked images stay for the next `up` unless `purge`."""
        with locked(f"lab-{self.name}"):
            self._down()
            if purge:
                shutil.rmtree(cache_dir() / "nodes" / self.name, ignore_errors=True)

    def process(self, name: str) -> Process:
        """A process by name: etcd, kube-apiserver, kube-scheduler, kubelet-<node>, containerd-<node>, provider-front, ..."""
        return Process(self.state, name)

    @property
    def process_names(self) -> tuple[str, ...]:
        per_node = [f"{kind}-{s.name}" for s in self.specs for kind in ("containerd", "kubelet")]
        return (*self.plane.process_names, *per_node, "kube-proxy", "provider-engine", "provider-front")

    def _start_control_plane(self) -> None:
        with step(f"control plane {self.plane.url}" if (self.state / "settings.json").exists() else "control plane"):
            users = {f"system:node:{s.name}": "system:nodes" for s in self.specs}
            self.plane.create(Settings(api_port=API_PORT, advertise=HOST_ADDRESS, users=users, controllers=True, scheduler=True))
            self.plane.start()

    def _start_nodes(self, images: dict[str, Image]) -> None:
        self.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": [_node_object(s) for s in self.specs]}))
        for host in self.hosts:
            with step(f"node {host.spec.name}: containerd"):
                if host.containerd.pid is None and host.kubelet.pid is not None:
                    host.stop()
                host.start_runtime(images["pause"])
        self._load(list(images.values()))
        (self.state / "images.json").write_text(json.dumps({i.name: i.ref for i in images.values()}, sort_keys=True))
        for host in self.hosts:
            with step(f"node {host.spec.name}: kubelet"):
                host.start_kubelet(self.state / f"system-node-{host.spec.name}.kubeconfig", self.plane.pki.ca)

    def _load(self, images: list[Image]) -> None:
        hosts = self.hosts
        for image in images:
            began = time.monotonic()
            with ThreadPoolExecutor(len(hosts)) as pool:
                loaded = sum(pool.map(lambda host, image=image: host.load(image), hosts))
            if loaded:
                done(f"load {image.ref} into {loaded} nodes", began)

    def _wait_nodes(self) -> None:
        deadline = time.monotonic() + NODE_READY_SECONDS
        while waiting := [s.name for s in self.specs if not _ready(self.node(s.name))]:
            for host in self.hosts:
                host.kubelet.check()
            if time.monotonic() > deadline:
                raise LabError(f"nodes {', '.join(waiting)} were not Ready in time; see {self.state / 'logs'}")
            time.sleep(0.3)
        for spec in self.specs:
            if spec.devices and GPU_RESOURCE not in self.node(spec.name)["status"]["capacity"]:
                self.set_devices(spec.name, spec.devices)

    def _proxy_flags(self) -> list[str]:
        return [
            f"--kubeconfig={self.state / 'system-kube-proxy.kubeconfig'}",
            f"--hostname-override={self.specs[0].name}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={POD_CIDR}",
            "--iptables-localhost-nodeports=false",
            "--iptables-min-sync-period=100ms",
            "--conntrack-max-per-core=0",
            "--healthz-bind-address=127.0.0.1:10256",
            "--metrics-bind-address=127.0.0.1:10249",
        ]

    def _down(self) -> None:
        if not self.exists:
            shutil.rmtree(self.state, ignore_errors=True)
            return
        with step("stop the remote provider and kube-proxy"):
            self.provider.stop()
            self.process("kube-proxy").stop(grace=3.0)
        for host in self.hosts:
            with step(f"stop node {host.spec.name}"):
                host.stop()
        with step("stop the control plane"):
            self.plane.stop()
        with step("remove network, rules and state"):
            network_down(self.state)
            remove_private_places()
            leftover = [h.cgroup for h in self.hosts if cgroups.exists(h.cgroup)]
            shutil.rmtree(self.state)
            if not any(self.state.parent.iterdir()):
                self.state.parent.rmdir()
        if leftover:
            raise LabError(f"cgroups {', '.join(leftover)} could not be removed: a process in them does not die")


def _node_object(spec: NodeSpec) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": spec.name, "labels": {**spec.labels, "modelfleet.dev/lab-node": spec.kind}},
        "spec": {"taints": spec.taints} if spec.taints else {},
    }


def _ready(node: Any) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", ()))
