"""Reads the environment, once, into the small values that rooms define; every complaint names its variable.

Decided here: names of variables (``MODELFLEET_*``, and ``POD_NAME`` and ``POD_NAMESPACE`` from the pod itself), their syntax and their defaults
where a room has none. Not decided here: what a value does.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from modelfleet.core.world import Defaults
from modelfleet.errors import Stalled
from modelfleet.handlers.options import LeaseOptions, OperatorOptions, Pace, Place
from modelfleet.observability.logging import LEVELS
from modelfleet.telemetry.scrape import ScrapeSettings

__all__ = ["operator_options"]

PREFIX = "MODELFLEET_"
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")

T = TypeVar("T", LeaseOptions, Pace)


def operator_options(environment: Mapping[str, str] | None = None, *, kubeconfig: Path | str | None = None, context: str | None = None) -> OperatorOptions:
    """Everything the operator may be told. Raises Stalled(InvalidSetting), naming the variable.

    ``kubeconfig`` and ``context`` come from the command line and win over ``MODELFLEET_KUBECONFIG`` and ``MODELFLEET_CONTEXT``.
    """
    read = _Reader(os.environ if environment is None else environment)
    lease = LeaseOptions(name=read.text("LEASE_NAME", LeaseOptions().name), **read.seconds_of("LEASE_", LeaseOptions))
    if not lease.renew < lease.deadline < lease.duration:
        raise _wrong("LEASE_DURATION", f"must exceed {PREFIX}LEASE_DEADLINE, and that {PREFIX}LEASE_RENEW ({lease.duration}, {lease.deadline}, {lease.renew})")
    host = read.pod("POD_NAME", socket.gethostname())
    return OperatorOptions(
        place=Place(
            namespace=read.text("NAMESPACE", read.pod("POD_NAMESPACE", "modelfleet-system")),
            # a container that starts again in its pod is another process, and must not take the old one's Lease for its own
            identity=f"{host}_{secrets.token_hex(4)}",
            port=read.port("PORT", 8080),
            kubeconfig=kubeconfig or read.text("KUBECONFIG", "") or None,
            context=context or read.text("CONTEXT", "") or None,
        ),
        lease=lease,
        pace=Pace(**read.seconds_of("PACE_", Pace)),
        scrape=ScrapeSettings(
            interval=read.seconds("SCRAPE_INTERVAL", ScrapeSettings().interval),
            timeout=read.seconds("SCRAPE_TIMEOUT", ScrapeSettings().timeout),
            port=read.port("SCRAPE_PORT", ScrapeSettings().port),
        ),
        defaults=_defaults(read),
        log_level=read.choice("LOG_LEVEL", LEVELS, "info"),
    )


def _defaults(read: _Reader) -> Defaults:
    known = Defaults()
    images = {engine: read.text(f"IMAGE_{engine.upper()}", image) for engine, image in sorted(known.images.items())}
    return Defaults(
        images=images,
        label_nodes=read.flag("LABEL_NODES", known.label_nodes),
        image_pull_policy=read.choice("IMAGE_PULL_POLICY", _PULL_POLICIES, known.image_pull_policy),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Typed look-ups; an empty variable is an absent one."""

    environment: Mapping[str, str]

    def pod(self, name: str, default: str) -> str:
        return self.environment.get(name, "").strip() or default

    def text(self, name: str, default: str) -> str:
        return self.environment.get(PREFIX + name, "").strip() or default

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise _wrong(name, f"must be one of {', '.join(choices)}, not {value!r}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        return self.choice(name, ("true", "false"), str(default).lower()) == "true"

    def port(self, name: str, default: int) -> int:
        value = self.text(name, str(default))
        if not (value.isascii() and value.isdigit() and 1 <= int(value) <= 65535):
            raise _wrong(name, f"must be a port from 1 to 65535, not {value!r}")
        return int(value)

    def seconds(self, name: str, default: float) -> float:
        value = self.text(name, str(default))
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds > 0):
            raise _wrong(name, f"must be a number of seconds above 0, not {value!r}")
        return seconds

    def seconds_of(self, prefix: str, kind: type[T]) -> dict[str, Any]:
        """The fields of ``kind`` that are seconds, each from ``MODELFLEET_<prefix><FIELD>``."""
        known = kind()
        named = [f.name for f in fields(known) if isinstance(getattr(known, f.name), float)]
        return {name: self.seconds(prefix + name.upper(), getattr(known, name)) for name in named}


def _wrong(name: str, message: str) -> Stalled:
    return Stalled("InvalidSetting", f"{PREFIX}{name} {message}")
