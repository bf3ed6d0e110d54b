"""Every variable is read, and every complaint names it."""

from __future__ import annotations

import pytest

from modelfleet.errors import Stalled
from modelfleet.settings import operator_options


def test_nothing_set_is_the_defaults():
    options = operator_options({})
    assert options.place.namespace == "modelfleet-system"
    assert options.lease.name == "modelfleet-operator"
    assert (options.lease.duration, options.lease.deadline, options.lease.renew) == (15.0, 10.0, 5.0)
    assert options.place.port == 8080
    assert options.scrape.interval == 5.0
    assert options.defaults.label_nodes


def test_everything_set_is_read():
    options = operator_options(
        {
            "POD_NAME": "op-1", "POD_NAMESPACE": "fleet", "MODELFLEET_LEASE_DURATION": "3", "MODELFLEET_LEASE_DEADLINE": "2", "MODELFLEET_LEASE_RENEW": "0.5",
            "MODELFLEET_PORT": "9000", "MODELFLEET_LABEL_NODES": "false", "MODELFLEET_IMAGE_LLAMACPP": "r/l@sha256:0", "MODELFLEET_IMAGE_PULL_POLICY": "Never",
            "MODELFLEET_PACE_GHOSTS": "2", "MODELFLEET_SCRAPE_INTERVAL": "1", "MODELFLEET_LOG_LEVEL": "debug",
            "MODELFLEET_KUBECONFIG": "/env", "MODELFLEET_CONTEXT": "c",
        },
        kubeconfig="/flag",
    )  # fmt: skip
    assert options.place.identity.startswith("op-1_")
    assert (options.place.namespace, options.place.port, options.place.kubeconfig, options.place.context) == ("fleet", 9000, "/flag", "c")
    assert (options.lease.duration, options.lease.deadline, options.lease.renew) == (3.0, 2.0, 0.5)
    assert options.defaults.images["LlamaCpp"] == "r/l@sha256:0"
    assert "VLLM" in options.defaults.images
    assert (options.defaults.label_nodes, options.defaults.image_pull_policy) == (False, "Never")
    assert (options.pace.ghosts, options.scrape.interval, options.log_level) == (2.0, 1.0, "debug")


def test_two_processes_of_one_pod_are_two():
    assert operator_options({"POD_NAME": "p"}).place.identity != operator_options({"POD_NAME": "p"}).place.identity


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "0"), ("PORT", "http"), ("PORT", "٣"), ("LABEL_NODES", "yes"), ("LOG_LEVEL", "loud"), ("IMAGE_PULL_POLICY", "Sometimes"),
        ("PACE_GHOSTS", "nan"), ("PACE_GHOSTS", "-1"), ("SCRAPE_INTERVAL", "5s"), ("LEASE_DURATION", "5"), ("LEASE_RENEW", "inf"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_name(variable, value):
    with pytest.raises(Stalled, match=f"MODELFLEET_{variable} "):
        operator_options({f"MODELFLEET_{variable}": value})
