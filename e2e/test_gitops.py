"""Promise: the same manifests applied twice cause no write, and nothing we own shows up in the user's diff."""

from __future__ import annotations

import time
from typing import Any

import pytest

from e2e.fleet import DEMO, Fleet

pytestmark = pytest.mark.lab


def test_the_same_manifests_applied_twice_cause_no_write(fleet: Fleet) -> None:
    def versions() -> dict[str, Any]:
        lists = fleet.cluster.get("modelpools,routingpolicies,deployments,services", namespace=DEMO)["items"]
        return {f"{o['kind']}/{o['metadata']['name']}": _version(o) for o in lists}

    time.sleep(3)
    before = versions()
    fleet.apply(*fleet.example())
    time.sleep(8)
    assert versions() == before


def _version(obj: dict[str, Any]) -> Any:
    """What moves with any write. A pool's status follows its traffic, so for a pool: who last wrote anything else, and when."""
    metadata = obj["metadata"]
    if obj["kind"] != "ModelPool":
        return metadata["resourceVersion"]
    return metadata["generation"], sorted((f["manager"], f.get("time", "")) for f in metadata["managedFields"] if f.get("subresource") != "status")


def test_nothing_the_operator_owns_appears_in_the_users_diff(fleet: Fleet) -> None:
    import yaml

    done = fleet.cluster.run(fleet.cluster.kubectl_bin, "diff", "-f", "-", stdin=yaml.safe_dump_all(fleet.example()), check=False)
    assert (done.returncode, done.stdout) == (0, "")
