"""One fleet for all promises: brought up once, and standing as the example wants it before each test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from e2e.cluster import Cluster
from e2e.fleet import Fleet


@pytest.fixture(scope="session")
def installed() -> Iterator[Fleet]:
    """The product and the example on the lab."""
    for verb in ("up", "build"):
        subprocess.run([sys.executable, "-m", "e2e.lab", verb], check=True)
    fleet = Fleet(Cluster.selected())
    if fleet.cluster.lab is not None:
        fleet.cluster.lab.restore()
    fleet.install()
    fleet.apply_example()
    fleet.wait_ready()
    yield fleet
    fleet.cluster.close()


@pytest.fixture
def fleet(installed: Fleet) -> Fleet:
    """The example fleet, settled. A test may disturb it; the next one starts from the same picture."""
    installed.settle()
    return installed
