"""Promise: the chart lints, upgrades without disturbing what runs, uninstalls without losing a model server, and installs again."""

from __future__ import annotations

import pytest

from e2e.cluster import ROOT, wait_until
from e2e.fleet import DEMO, SYSTEM, Fleet

pytestmark = pytest.mark.lab


def test_lint(fleet: Fleet) -> None:
    for chart in ("modelfleet", "modelfleet-crds"):
        fleet.cluster.helm("lint", "--strict", str(ROOT / "charts" / chart))


def test_upgrade_uninstall_and_install_again_keep_the_fleet(fleet: Fleet) -> None:
    def servers() -> set[str]:
        return {p["metadata"]["uid"] for p in fleet.cluster.get("pods", namespace=DEMO, selector="modelfleet.dev/pool")["items"]}

    before = servers()
    fleet.install()
    assert fleet.ask("Hello.", max_tokens=4).pool == f"{DEMO}/small"
    fleet.cluster.helm("uninstall", "modelfleet", "-n", SYSTEM, "--wait")
    left = fleet.cluster.get("deployments,services,serviceaccounts,configmaps", namespace=SYSTEM, selector="app.kubernetes.io/part-of=modelfleet")["items"]
    assert left == []
    assert fleet.cluster.get("modelpools", namespace=DEMO)["items"], "uninstalling the operator must not delete users' objects"
    fleet.install()
    fleet._gateway = None
    fleet.wait_ready()
    wait_until(lambda: fleet.ask("Hello.", max_tokens=4).pool == f"{DEMO}/small", 180, "answers after the reinstall")
    assert servers() == before
