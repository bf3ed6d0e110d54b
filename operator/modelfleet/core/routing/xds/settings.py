"""What one gateway's resources are made with, and the form in which they come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelfleet.core.routing.ir import SecretRef

from .wire import Json

__all__ = ["GatewaySettings", "Resources"]


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What the installer chose. ``decide_timeout`` in seconds: how long one request waits for a decider that hangs.

    ``decide_body_bytes``: how much of a body the decider gets to see, cut and marked as such beyond. Whole bodies of 4 MB take longer than 50 ms to
    reach it, and then their size alone would switch it off.
    ``sink_port`` is on loopback alone: clusters that resolve names cannot have the sink's Unix socket among their endpoints.
    """

    run_dir: str = "/run/modelfleet"
    address: str = "0.0.0.0"
    port: int = 8080
    sink_port: int = 8079
    max_body_bytes: int = 8 * 1024 * 1024
    decide_body_bytes: int = 1024 * 1024
    decide_timeout: float = 0.05
    connect_timeout: float = 1.0
    ca_file: str = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True)
class Resources:
    """Name -> resource, by xDS type; every resource carries its ``@type``. ``secrets``: those that clusters refer to."""

    listeners: Mapping[str, Json]
    routes: Mapping[str, Json]
    clusters: Mapping[str, Json]
    endpoints: Mapping[str, Json]
    secrets: Mapping[str, SecretRef] = field(default_factory=dict)
