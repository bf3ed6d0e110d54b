"""Where a remote endpoint may point: not at the gateway itself, its node, its cluster or its cloud's metadata, unless the platform allows it.

Decided here: whether a URL's host, or an address that it resolves to, may be reached. Whoever writes a ModelPool chooses the URL, and the gateway would send
requests there from inside the cluster; so loopback, link-local, private and other ranges that are no public address are refused, and names that mean the
cluster. The platform's list (chart value ``endpoints.allow``) names hosts and CIDRs that are welcome nevertheless.

Not covered yet: DNS rebinding. Envoy resolves names by itself (STRICT_DNS); the router's probe looks at the same names and has an endpoint dropped whose
name leads inside. A name that answers the two differently, turns between two probes, or is used before the first one, gets through.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

__all__ = ["Egress", "egress"]

_INSIDE: Final = tuple(
    ip_network(block)
    for block in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15",
        "224.0.0.0/4", "240.0.0.0/4",
        "::/127", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip
_CARRIES_V4: Final = tuple((ip_network(block), shift) for block, shift in (("::ffff:0:0/96", 0), ("64:ff9b::/96", 0), ("2002::/16", 80)))
"""IPv6 ranges that carry an IPv4 address (mapped, NAT64, 6to4), and how far from the right it stands, in bits."""

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_NUMBER: Final = re.compile(r"([0-9]+|0x[0-9a-f]*)")
_CLUSTER_NAMES: Final = (".localhost", ".svc", ".cluster.local", ".internal")


@dataclass(frozen=True, slots=True)
class Egress:
    """What the platform allows beyond public addresses: ``hosts`` by name, wherever they lead, and ``networks``."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    def permits(self, host: str) -> bool:
        """Whether a URL may name this host, an address or a name; what a name resolves to is asked of ``permits_address``."""
        name = _plain(host)
        if name in self.hosts:
            return True
        address = _address(name)
        if address is not None:
            return self.permits_address(host, name)
        # resolvers read 127.1 and 0x7f000001 as addresses
        return not _NUMBER.fullmatch(name.rpartition(".")[2]) and not _means_the_cluster(name)

    def permits_address(self, host: str, address: str) -> bool:
        """Whether ``address`` may be connected to on behalf of ``host``; what is no address may not."""
        if _plain(host) in self.hosts:
            return True
        found = _address(address)
        if found is None:
            return False
        return any(found in network for network in self.networks) or not any(found in block for block in _INSIDE)


def egress(allow: Iterable[str]) -> Egress:
    """The platform's list, read. Raises ValueError naming the entry that is neither a host nor a CIDR."""
    hosts: set[str] = set()
    networks: set[IPv4Network | IPv6Network] = set()
    for entry in allow:
        name = _plain(entry.strip())
        if "/" in name or _address(name) is not None:
            try:
                networks.add(ip_network(name))
            except ValueError as error:
                raise ValueError(f"{entry!r} is no CIDR: {error}") from None
        elif _NAME.fullmatch(name) and not _NUMBER.fullmatch(name.rpartition(".")[2]):
            hosts.add(name)
        else:
            raise ValueError(f"{entry!r} is neither a host nor a CIDR")
    return Egress(frozenset(hosts), tuple(sorted(networks, key=str)))


def _plain(host: str) -> str:
    return host.lower().rstrip(".")


def _means_the_cluster(name: str) -> bool:
    """A name without a dot is completed by the pod's search domains, so it means a Service before it means anything else."""
    return "." not in name or name.startswith("kubernetes") or name.endswith(_CLUSTER_NAMES)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address, an IPv4 one that travels inside IPv6 as what it means."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    for block, shift in _CARRIES_V4:
        if found in block:
            return IPv4Address(int(found) >> shift & 0xFFFFFFFF)
    return found
