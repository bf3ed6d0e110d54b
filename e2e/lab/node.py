"""One node: a containerd and a kubelet of its own, together in one mount namespace of their own.

Everything that kubelet, containerd and CNI keep at fixed places (`/var/lib/kubelet`, `/run/netns`, ...) is a private bind
mount there. So several nodes live side by side on one host, and all their mounts and network namespaces vanish with their
last process. What is dear to rebuild, the unpacked images, lies in the cache and survives `down`.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from pathlib import Path

from e2e.lab import cgroups, layout
from e2e.lab.binaries import binary
from e2e.lab.layout import Image
from e2e.lab.network import HOST_ADDRESS
from e2e.lab.nodes import NodeSpec
from e2e.lab.paths import cache_dir
from e2e.lab.processes import Process
from e2e.lab.steps import LabError, sh

PRIVATE = ("/var/lib/kubelet", "/var/lib/cni", "/run/netns", "/run/containerd", "/var/log/containers")


class NodeHost:
    """The processes and folders of one node."""

    def __init__(self, lab: str, state: Path, spec: NodeSpec) -> None:
        """`state` is the lab's state folder; the node's own lies below."""
        self.spec = spec
        self.lab_state = state
        self.state = state / "nodes" / spec.name
        self.cgroup = f"modelfleet-{lab}-{spec.name}"
        self.root = cache_dir() / "nodes" / lab / spec.name

    @property
    def containerd(self) -> Process:
        return Process(self.lab_state, f"containerd-{self.spec.name}")

    @property
    def kubelet(self) -> Process:
        return Process(self.lab_state, f"kubelet-{self.spec.name}")

    @property
    def socket(self) -> Path:
        return self.state / "containerd.sock"

    def start_runtime(self, sandbox: Image) -> None:
        """Start containerd unless it runs; returns when it answers."""
        for folder in (self.state, self.root, self.state / "cni", self.state / "pod-logs", self.state / "kubelet"):
            folder.mkdir(parents=True, exist_ok=True)
        (self.state / "containerd.toml").write_text(self._containerd_config(sandbox.ref))
        (self.state / "cni" / "10-lab.conflist").write_text(self._cni_config())
        if self.containerd.pid is None:
            for place in PRIVATE:
                Path(place).mkdir(parents=True, exist_ok=True)
                (self.state / "private" / place[1:]).mkdir(parents=True, exist_ok=True)
            binds = " && ".join(f"mount --bind {shlex.quote(str(self.state / 'private' / p[1:]))} {p}" for p in PRIVATE)
            command = f"{binds} && exec containerd --config {shlex.quote(str(self.state / 'containerd.toml'))}"
            self.containerd.start("unshare", "--mount", "--propagation", "slave", "--", "sh", "-c", command)
        deadline = time.monotonic() + 30
        while self.ctr("version", check=False) is None:
            self.containerd.check()
            if time.monotonic() > deadline:
                raise LabError(f"containerd of node {self.spec.name} does not answer; see {self.containerd.log}")
            time.sleep(0.1)
        (self.state / "mount-namespace").write_text(_mount_namespace(self.containerd.pid or 0))

    def load(self, image: Image) -> bool:
        """Bring an image of the layout into the namespace kubelet uses, unless it is there already; says whether it was brought."""
        present = {line.split()[0] for line in (self.ctr("images", "ls") or "").splitlines()[1:]}
        if image.ref in present:
            return False
        blobs = set((self.ctr("content", "ls", "-q") or "").split())
        layout.send(image.ref, blobs, [*self._ctr, "images", "import", "-"])
        repository = image.ref.rpartition(":")[0]
        for old in sorted(r for r in present if r.startswith(f"{repository}:") and not layout.holds(r)):
            self.ctr("images", "rm", old)
        return True

    def load_archive(self, archive: Path) -> None:
        """Bring a foreign image archive into the namespace kubelet uses."""
        self.ctr("images", "import", archive)

    def start_kubelet(self, kubeconfig: Path, ca: Path) -> None:
        """Start the kubelet unless it runs."""
        cgroups.create(self.cgroup)
        (self.state / "resolv.conf").write_text("")
        config = self.state / "kubelet.json"
        config.write_text(json.dumps(self._kubelet_config(ca), indent=1))
        if self.kubelet.pid is None:
            flags = [
                f"--config={config}",
                f"--kubeconfig={kubeconfig}",
                f"--root-dir={self.state / 'kubelet'}",
                f"--hostname-override={self.spec.name}",
                f"--node-ip={self.spec.address}",
            ]
            self.kubelet.start("nsenter", f"--target={self.containerd.pid}", "--mount", "--", binary("kubelet"), *flags)

    def stop(self) -> None:
        """Stop the kubelet, kill the pods, forget them, stop the runtime; nothing of the node runs afterwards."""
        self.kubelet.stop(grace=3.0)
        cgroups.kill(self.cgroup)
        if self.containerd.pid is not None:
            self._forget_containers()
        self.containerd.stop(grace=5.0)
        self._kill_namespace()
        cgroups.remove(self.cgroup)

    def ctr(self, *args: str | Path, check: bool = True) -> str | None:
        """Run ctr in kubelet's namespace; returns its output, or None when it fails and `check` is off."""
        done = sh(*self._ctr, *args, check=check)
        return done.stdout if done.returncode == 0 else None

    @property
    def _ctr(self) -> tuple[str, ...]:
        return ("ctr", "--address", str(self.socket), "--namespace", "k8s.io")

    def _forget_containers(self) -> None:
        """Have containerd forget the dead pods. A containerd that died with them finds them next time, as after a power cut, and kubelet clears them away."""
        names = (self.ctr("containers", "ls", "-q", check=False) or "").split()
        if names:
            self.ctr("tasks", "rm", "--force", *names, check=False)
            self.ctr("containers", "rm", *names, check=False)

    def _kill_namespace(self) -> None:
        """Kill what is left in the node's mount namespace: container shims, and plugins that hang."""
        try:
            namespace = (self.state / "mount-namespace").read_text()
        except FileNotFoundError:
            return
        for _ in range(50):
            left = [pid for pid in _pids() if _mount_namespace(pid) == namespace]
            if not left:
                return
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)

    def _containerd_config(self, sandbox: str) -> str:
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        return f"""version = 2
root = "{self.root / "containerd"}"
state = "{self.state / "containerd"}"
disabled_plugins = [{", ".join(f'"io.containerd.snapshotter.v1.{s}"' for s in ("aufs", "btrfs", "zfs", "devmapper"))}]
[grpc]
address = "{self.socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{self.state / "opt"}"
[{cri}]
sandbox_image = "{sandbox}"
# lowering oom_score_adj needs CAP_SYS_RESOURCE, which a sandboxed root may lack
restrict_oom_score_adj = true
[{cri}.cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{self.state / "cni"}"
[{cri}.containerd]
snapshotter = "overlayfs"
[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.runc.options]
SystemdCgroup = false
"""

    def _cni_config(self) -> str:
        ipam = {
            "type": "host-local",
            "dataDir": str(self.state / "ipam"),
            "ranges": [[{"subnet": self.spec.pod_cidr}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        plugins = [{"type": "ptp", "ipMasq": False, "ipam": ipam}, {"type": "portmap", "capabilities": {"portMappings": True}}]
        return json.dumps({"cniVersion": "0.4.0", "name": f"lab-{self.spec.name}", "plugins": plugins}, indent=1)

    def _kubelet_config(self, ca: Path) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.spec.address,
            "port": 10250,
            "readOnlyPort": 0,
            "healthzBindAddress": self.spec.address,
            "healthzPort": 10248,
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": False}, "x509": {"clientCAFile": str(ca)}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "failCgroupV1": False,
            "clusterDNS": ["10.96.0.10"],
            "clusterDomain": "cluster.local",
            "resolvConf": str(self.state / "resolv.conf"),
            "podLogsDir": str(self.state / "pod-logs"),
            "volumePluginDir": str(self.state / "volume-plugins"),
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%"},
            "nodeStatusUpdateFrequency": "5s",
            # tests kill containers again and again; the kubelet would wait five minutes before the seventh start
            "featureGates": {"KubeletCrashLoopBackOffMax": True},
            "crashLoopBackOff": {"maxContainerRestartPeriod": "10s"},
            "serializeImagePulls": False,
            "registerWithTaints": self.spec.taints,
            "providerID": f"lab://{HOST_ADDRESS}/{self.spec.name}",
        }


def remove_private_places() -> None:
    """Remove the empty folders that the private mounts needed on the host; a folder with something in it is somebody else's."""
    for place in PRIVATE:
        for folder in (Path(place), Path(place).parent):
            if folder in (Path("/run"), Path("/var/lib"), Path("/var/log")):
                continue
            try:
                folder.rmdir()
            except OSError:
                continue


def _pids() -> list[int]:
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]


def _mount_namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/mnt").readlink())
    except OSError:
        return ""
