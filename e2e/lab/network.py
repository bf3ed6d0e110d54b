"""The lab's place on the host: one bridge with the addresses of host and nodes, forwarding, and the way back to nothing.

Pods hang on point-to-point links (the `ptp` plugin), so every packet between pods is routed by the host and service addresses
work without bridge netfilter. kube-proxy writes the service rules; `down` has it take them away.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from e2e.lab.binaries import binary
from e2e.lab.steps import sh

BRIDGE = "mflab0"
HOST_ADDRESS = "10.245.0.1"
LAB_CIDRS = ("10.244.0.0/16", "10.245.0.0/24", "10.96.0.0/16")
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_COMMENT = "modelfleet lab"


def network_up(state: Path, addresses: Iterable[str]) -> None:
    """Make bridge, addresses and forwarding; what was there stays as it is."""
    remembered = state / "ip_forward"
    if not remembered.exists():
        remembered.write_text(_FORWARD.read_text())
    _FORWARD.write_text("1")
    sh("ip", "link", "set", "lo", "up")
    if sh("ip", "link", "show", BRIDGE, check=False).returncode != 0:
        sh("ip", "link", "add", BRIDGE, "type", "bridge")
    for address in (HOST_ADDRESS, *addresses):
        sh("ip", "addr", "replace", f"{address}/24", "dev", BRIDGE)
    sh("ip", "link", "set", BRIDGE, "up")
    for rule in _forward_rules():
        if sh("iptables", "-w", "-C", *rule, check=False).returncode != 0:
            sh("iptables", "-w", "-I", *rule)


def network_down(state: Path) -> None:
    """Take away what `network_up`, kube-proxy and dead pods left."""
    sh(binary("kube-proxy"), "--cleanup", check=False)
    for rule in _forward_rules():
        while sh("iptables", "-w", "-D", *rule, check=False).returncode == 0:
            pass
    _remove_kube_chains()
    sh("ip", "link", "del", BRIDGE, check=False)
    remembered = state / "ip_forward"
    if remembered.exists():
        _FORWARD.write_text(remembered.read_text())


def _forward_rules() -> list[tuple[str, ...]]:
    comment = ("-m", "comment", "--comment", _COMMENT, "-j", "ACCEPT")
    return [("FORWARD", "-s", LAB_CIDRS[0], *comment), ("FORWARD", "-d", LAB_CIDRS[0], *comment)]


def _remove_kube_chains() -> None:
    """Chains that kubelet and kube-proxy leave (the kubelet's hint and canary are nobody's to clean up)."""
    for tool in ("iptables", "ip6tables"):
        for table in ("filter", "nat", "mangle"):
            listed = sh(tool, "-w", "-t", table, "-S", check=False).stdout.splitlines()
            chains = [line.split()[1] for line in listed if line.startswith("-N KUBE-")]
            for line in listed:
                if line.startswith("-A ") and " -j KUBE-" in line and not line.startswith("-A KUBE-"):
                    sh("sh", "-c", f"{tool} -w -t {table} -D {line.removeprefix('-A ')}", check=False)
            for flag in ("-F", "-X"):
                for chain in chains:
                    sh(tool, "-w", "-t", table, flag, chain, check=False)
