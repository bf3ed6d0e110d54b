"""What a router reads from its environment, once. The operator's settings are another process's and are not read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelfleet.core.routing.egress import Egress, egress
from modelfleet.errors import Stalled

__all__ = ["RouterSettings", "read_settings"]


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """``namespaces``: those whose policies this gateway serves (empty: all). ``drain``: seconds between "not ready" and the end. Ports are TCP.

    ``decide_timeout``: seconds that Envoy waits for a decision before the static chain serves. ``egress``: where remote endpoints may point.
    ``grant_keys``: the folder of the keys that sign grants (None: no grant is known). ``teams_namespace``: where the team runtime runs (None: anywhere).
    """

    pod: str = "gateway"
    run_dir: str = "/run/modelfleet"
    http_host: str = "0.0.0.0"
    http_port: int = 8081
    envoy_port: int = 8080
    namespaces: tuple[str, ...] = ()
    max_body_bytes: int = 8 * 1024 * 1024
    ca_file: str = "/etc/ssl/certs/ca-certificates.crt"
    log_level: str = "info"
    drain: float = 5.0
    decide_timeout: float = 0.05
    egress: Egress = field(default_factory=Egress)
    grant_keys: str | None = None
    teams_namespace: str | None = None
    kubeconfig: str | None = None


def read_settings(environment: Mapping[str, str]) -> RouterSettings:
    """Settings from ``POD_NAME`` and ``MODELFLEET_*``; raises Stalled naming the variable that is wrong."""
    default = RouterSettings()
    return RouterSettings(
        pod=environment.get("POD_NAME") or environment.get("HOSTNAME") or default.pod,
        run_dir=environment.get("MODELFLEET_RUN_DIR") or default.run_dir,
        http_host=environment.get("MODELFLEET_HTTP_HOST") or default.http_host,
        http_port=_integer(environment, "MODELFLEET_HTTP_PORT", default.http_port),
        envoy_port=_integer(environment, "MODELFLEET_ENVOY_PORT", default.envoy_port),
        namespaces=tuple(sorted({name.strip() for name in environment.get("MODELFLEET_NAMESPACES", "").split(",") if name.strip()})),
        max_body_bytes=_integer(environment, "MODELFLEET_MAX_BODY_BYTES", default.max_body_bytes),
        ca_file=environment.get("MODELFLEET_CA_FILE") or default.ca_file,
        log_level=environment.get("MODELFLEET_LOG_LEVEL") or default.log_level,
        drain=float(_integer(environment, "MODELFLEET_DRAIN_SECONDS", int(default.drain))),
        decide_timeout=_integer(environment, "MODELFLEET_DECIDE_TIMEOUT_MS", round(default.decide_timeout * 1000)) / 1000,
        egress=_egress(environment.get("MODELFLEET_ENDPOINTS_ALLOW", "")),
        grant_keys=environment.get("MODELFLEET_GRANT_KEYS_DIR") or None,
        teams_namespace=environment.get("MODELFLEET_NAMESPACE") or environment.get("POD_NAMESPACE") or None,
        kubeconfig=environment.get("MODELFLEET_KUBECONFIG") or None,
    )


def _egress(text: str) -> Egress:
    try:
        return egress(entry for entry in text.split(",") if entry.strip())
    except ValueError as error:
        raise Stalled("InvalidSetting", f"MODELFLEET_ENDPOINTS_ALLOW: {error}") from None


def _integer(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "")
    if text and not (text.isascii() and text.isdigit()):
        raise Stalled("InvalidSetting", f"{name} is {text!r}: write a whole number")
    return int(text) if text else default
