"""An operator that could not give its Lease back does not hold up the next install: the Lease goes with the release."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from tests.charts.rights import NAMESPACE, Ground, until
from tests.support.apiserver import ApiServer
from tests.support.envoy import free_port

from modelfleet.handlers.options import LeaseOptions
from modelfleet.settings import operator_options

NAME = LeaseOptions().name
LONG = {"MODELFLEET_LEASE_RENEW": "0.5", "MODELFLEET_LEASE_DEADLINE": "500", "MODELFLEET_LEASE_DURATION": "600"}
"""Whoever had to wait for such a Lease to expire would wait for ten minutes."""


VALUES = {"accelerators": {"install": False}}


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    made = ApiServer()
    made.apply_crds()
    yield made
    made.close()


def test_a_lease_that_was_not_given_back_is_gone_with_the_release(server: ApiServer) -> None:
    ground = Ground(server, VALUES)

    def holder() -> str:
        return str(server.get("lease", NAME, "-n", NAMESPACE)["spec"].get("holderIdentity", ""))

    assert operator_options({}).lease.name == NAME
    assert holder() == "", "the chart makes the Lease and leaves it to its holder"
    with ground.running("operator", "operator", MODELFLEET_PORT=str(free_port()), POD_NAME="old", **LONG):
        until(lambda: holder().startswith("old_"), "the first operator to lead")
        held = server.get("lease", NAME, "-n", NAMESPACE)
        ground.helm("upgrade", "modelfleet", "charts/modelfleet", "-n", NAMESPACE, "-f", "-", values={**VALUES, "operator": {"logLevel": "debug"}})
        after = server.get("lease", NAME, "-n", NAMESPACE)
        assert after["spec"]["holderIdentity"] == held["spec"]["holderIdentity"], "an upgrade leaves the holder alone"
        ground.helm("uninstall", "modelfleet", "-n", NAMESPACE, "--wait")
        assert server.get("leases", "-n", NAMESPACE)["items"] == [], "the operator, still running, may not make it again"
        ground.helm("install", "modelfleet", "charts/modelfleet", "-n", NAMESPACE, "-f", "-", values=VALUES)
        assert holder() == ""
        with ground.running("operator", "operator", MODELFLEET_PORT=str(free_port()), POD_NAME="new", **LONG):
            until(lambda: holder().startswith("new_"), "the next operator to lead, though the old one never left")
        assert holder().startswith("new_"), "the old one's token died with its account: it takes nothing back"
    ground.helm("uninstall", "modelfleet", "-n", NAMESPACE)


def test_a_lease_that_an_operator_made_does_not_stop_an_install(server: ApiServer) -> None:
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME, "namespace": NAMESPACE}}
    server.kubectl("create", "namespace", NAMESPACE)
    server.apply(yaml.safe_dump({**lease, "spec": {"holderIdentity": "somebody"}}))
    ground = Ground(server, VALUES)
    ground.helm("upgrade", "modelfleet", "charts/modelfleet", "-n", NAMESPACE, "-f", "-", values=VALUES)
    assert server.get("lease", NAME, "-n", NAMESPACE)["spec"]["holderIdentity"] == "somebody"
    ground.helm("uninstall", "modelfleet", "-n", NAMESPACE)
    assert server.get("lease", NAME, "-n", NAMESPACE)["spec"]["holderIdentity"] == "somebody", "nor does the release take it along"
    server.kubectl("delete", "lease", NAME, "-n", NAMESPACE, check=True)
