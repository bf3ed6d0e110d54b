"""When is a child as we want it? Small cases; the API server's own defaulting is tried in test_apply.py."""

from __future__ import annotations

import pytest

from modelfleet.kube.compare import covers, drops


@pytest.mark.parametrize(
    ("observed", "desired"),
    [
        ({"a": 1, "default": 2}, {"a": 1}),
        ({"a": 1}, {"a": 1, "empty": "", "none": None, "list": [], "map": {}}),
        ({"env": [{"name": "X", "value": "9"}, {"name": "A", "value": "1"}]}, {"env": [{"name": "A", "value": "1"}]}),
        ({"ports": [{"containerPort": 1, "protocol": "TCP"}]}, {"ports": [{"containerPort": 1}]}),
        ({"requests": {"cpu": "1", "memory": "1Gi"}}, {"requests": {"cpu": "1000m", "memory": "1024Mi"}}),
        ({"volumeMounts": [{"name": "m", "mountPath": "/a"}, {"name": "m", "mountPath": "/b"}]}, {"volumeMounts": [{"name": "m", "mountPath": "/b"}]}),
    ],
)
def test_covered(observed: object, desired: object) -> None:
    assert covers(observed, desired)


@pytest.mark.parametrize(
    ("observed", "desired"),
    [
        ({}, {"a": 1}),
        ({}, {"automount": False}),
        ({"a": 1}, {"a": True}),
        ({"a": "1"}, {"a": "1000m"}),
        ({"args": ["a", "b"]}, {"args": ["a"]}),
        ({"args": ["a"]}, {"args": ["b"]}),
        ({"args": "ab"}, {"args": ["a", "b"]}),
        ({"env": [{"name": "A", "value": "1.0"}]}, {"env": [{"name": "A", "value": "1"}]}),
        ({"tolerations": [{"key": "a"}, {"key": "b"}]}, {"tolerations": [{"key": "a"}]}),
        ({"requests": {"cpu": "1"}}, {"requests": {"cpu": "lots"}}),
        (None, {"a": {}}),
    ],
)
def test_not_covered(observed: object, desired: object) -> None:
    assert not covers(observed, desired)


OWNED = {
    "f:spec": {
        "f:replicas": {},
        "f:ports": {'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}, "f:name": {}}},
        "f:finalizers": {'v:"x"': {}},
    }
}


def test_what_we_own_and_still_want_is_not_dropped() -> None:
    assert not drops(OWNED, {"spec": {"replicas": 0, "ports": [{"containerPort": 80, "name": "http"}], "finalizers": ["x"], "more": 1}})


@pytest.mark.parametrize(
    "spec",
    [
        {"ports": [{"containerPort": 80, "name": "http"}], "finalizers": ["x"]},
        {"replicas": 1, "ports": [], "finalizers": ["x"]},
        {"replicas": 1, "ports": [{"containerPort": 81, "name": "http"}], "finalizers": ["x"]},
        {"replicas": 1, "ports": [{"containerPort": 80}], "finalizers": ["x"]},
        {"replicas": 1, "ports": [{"containerPort": 80, "name": "http"}], "finalizers": []},
        {"replicas": 1, "ports": "x", "finalizers": ["x"]},
    ],
)
def test_what_we_own_and_no_longer_want_is_dropped(spec: dict) -> None:
    assert drops(OWNED, {"spec": spec})
