"""What a team runtime reads from its environment, once. The operator's and the router's settings are other processes' and are not read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from modelfleet.errors import Stalled
from modelfleet.observability.logging import LEVELS

__all__ = ["TeamsSettings", "read_settings"]


@dataclass(frozen=True, slots=True)
class TeamsSettings:
    """``gateway_url``: where role calls go. ``namespaces``: those whose teams are served (empty: all). ``drain``: seconds that runs get after SIGTERM."""

    gateway_url: str
    journal: Path
    grant_keys: Path
    pod: str = "teams"
    http_host: str = "0.0.0.0"
    http_port: int = 8090
    namespaces: tuple[str, ...] = ()
    max_body_bytes: int = 8 * 1024 * 1024
    log_level: str = "info"
    drain: float = 60.0
    kubeconfig: str | None = None


def read_settings(environment: Mapping[str, str]) -> TeamsSettings:
    """Settings from ``POD_NAME`` and ``MODELFLEET_*``; raises Stalled naming the variable that is wrong or missing."""
    return TeamsSettings(
        gateway_url=_url(environment, "MODELFLEET_GATEWAY_URL", "the gateway's address, such as http://modelfleet-gateway.modelfleet.svc:8080"),
        journal=Path(_needed(environment, "MODELFLEET_JOURNAL", "the path of the journal's file, on a volume that survives the pod")),
        grant_keys=Path(_needed(environment, "MODELFLEET_GRANT_KEYS_DIR", "the folder of the grant keys, the same Secret that the gateway mounts")),
        pod=environment.get("POD_NAME") or environment.get("HOSTNAME") or "teams",
        http_host=environment.get("MODELFLEET_HTTP_HOST") or "0.0.0.0",
        http_port=_integer(environment, "MODELFLEET_TEAMS_PORT", 8090, most=65535),
        namespaces=tuple(sorted({name.strip() for name in environment.get("MODELFLEET_NAMESPACES", "").split(",") if name.strip()})),
        max_body_bytes=_integer(environment, "MODELFLEET_MAX_BODY_BYTES", 8 * 1024 * 1024),
        log_level=_level(environment.get("MODELFLEET_LOG_LEVEL") or "info"),
        drain=float(_integer(environment, "MODELFLEET_DRAIN_SECONDS", 60)),
        kubeconfig=environment.get("MODELFLEET_KUBECONFIG") or None,
    )


def _needed(environment: Mapping[str, str], name: str, what: str) -> str:
    text = environment.get(name, "").strip()
    if not text:
        raise Stalled("InvalidSetting", f"{name} is not set: write {what}")
    return text


def _url(environment: Mapping[str, str], name: str, what: str) -> str:
    text = _needed(environment, name, what).rstrip("/")
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Stalled("InvalidSetting", f"{name} is {text!r}: write {what}")
    return text


def _level(text: str) -> str:
    if text not in LEVELS:
        raise Stalled("InvalidSetting", f"MODELFLEET_LOG_LEVEL is {text!r}: write one of {', '.join(LEVELS)}")
    return text


def _integer(environment: Mapping[str, str], name: str, default: int, most: int | None = None) -> int:
    text = environment.get(name, "")
    if text and not (text.isascii() and text.isdigit() and (most is None or int(text) <= most)):
        raise Stalled("InvalidSetting", f"{name} is {text!r}: write a whole number" + (f", at most {most}" if most is not None else ""))
    return int(text) if text else default
