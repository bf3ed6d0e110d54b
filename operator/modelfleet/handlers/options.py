"""What the operator process may be told, as one frozen value. Where it comes from (environment, command line) is ``settings.py``'s affair."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from modelfleet.core.world import Defaults
from modelfleet.telemetry.scrape import ScrapeSettings

__all__ = ["LeaseOptions", "OperatorOptions", "Pace", "Place"]


@dataclass(frozen=True, slots=True)
class LeaseOptions:
    """The Lease's name and times, in seconds: ``renew`` < ``deadline`` < ``duration``."""

    name: str = "modelfleet-operator"
    duration: float = 15.0
    deadline: float = 10.0
    renew: float = 5.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How often and how long, in seconds. ``finish`` and ``last_write`` bound a clean stop and lie, with Kopf's own 5 s, inside 30."""

    resync: float = 60.0
    ghosts: float = 300.0
    silence: float = 180.0
    request: float = 30.0
    crds: float = 30.0
    stuck: float = 300.0
    finish: float = 10.0
    last_write: float = 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """Who and where we are. Without ``kubeconfig`` and ``context``: the pod's service account, or the usual kubeconfig."""

    namespace: str
    identity: str
    port: int = 8080
    kubeconfig: Path | str | None = None
    context: str | None = None


@dataclass(frozen=True, slots=True)
class OperatorOptions:
    """See the module."""

    place: Place
    lease: LeaseOptions = LeaseOptions()
    pace: Pace = Pace()
    scrape: ScrapeSettings = field(default_factory=ScrapeSettings)
    defaults: Defaults = field(default_factory=Defaults)
    log_level: str = "info"
