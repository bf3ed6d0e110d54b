"""How Kopf is set up: what it must not do, how soon it gives up, and as whom it logs in. Decided in docs/architecture.md: an event source, no more."""

from __future__ import annotations

import logging

import kopf

from modelfleet.kube.client import Client

__all__ = ["kopf_settings", "log_in_with"]

_log = logging.getLogger(__name__)


def kopf_settings() -> kopf.OperatorSettings:
    """Kopf's settings, each with its reason."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # events are ours: kube/events.py
    settings.peering.standalone = True  # leadership is ours: kube/lease.py
    settings.scanning.disabled = True  # our kinds are known; no watch on CRDs and namespaces
    settings.networking.request_timeout = 30  # default 300: too long to notice a dead server
    settings.watching.chunk_size = 500  # the default lists everything in one answer
    settings.process.ultimate_exiting_timeout = 20  # inside terminationGracePeriodSeconds, 30
    settings.persistence.finalizer = "modelfleet.dev/kopf"  # unused; ours by name if it ever appears
    # queueing.worker_limit stays None: a limit throttles start-up and can deadlock
    return settings


def log_in_with(client: Client, registry: kopf.OperatorRegistry) -> None:
    """Let Kopf use what our own loaders found, so that there is one source of credentials; asked again when a token has expired."""

    @kopf.on.login(registry=registry)
    async def log_in(**_: object) -> kopf.ConnectionInfo:
        found = await client.credentials()
        return kopf.ConnectionInfo(
            server=found.server,
            ca_path=found.ca_path,
            insecure=found.insecure,
            certificate_path=found.certificate_path,
            private_key_path=found.private_key_path,
            token=found.token,
        )
