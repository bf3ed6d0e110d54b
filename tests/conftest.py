"""Fixtures that any test may ask for: real API servers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

CHECKOUT = Path(__file__).resolve().parents[1]
if str(CHECKOUT) not in sys.path:
    # `e2e` and `tests.support` are imported from the checkout's root, however pytest was called
    sys.path.insert(0, str(CHECKOUT))

from tests.support.apiserver import ApiServer  # noqa: E402

# the same examples every time, and no limit in time, which a busy machine breaks for no fault of ours; `--hypothesis-profile=search` looks for new ones
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", settings.get_profile("search"), derandomize=True)
settings.load_profile("steady")

REAL_FIXTURES = {"apiserver", "apiserver_with_crds", "make_apiserver", "server"}
REAL_NAMES = ("Envoy", "ServerDoor", "a_bench", "ensure_binaries", "helm", "validate")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a real API server, Envoy or Helm, told by its fixtures and by what its module imports: `make check` leaves it to `make test`."""
    for item in items:
        module = getattr(item, "module", None)
        if REAL_FIXTURES & set(getattr(item, "fixturenames", ())) or any(hasattr(module, name) for name in REAL_NAMES):
            item.add_marker("real")


@pytest.fixture(scope="session")
def apiserver() -> Iterator[ApiServer]:
    """One API server for the whole session, without controllers; use a namespace of your own in it."""
    server = ApiServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def apiserver_with_crds(apiserver: ApiServer) -> ApiServer:
    """The session's API server with the checkout's CRDs Established."""
    apiserver.apply_crds()
    return apiserver


@pytest.fixture
def make_apiserver() -> Iterator[Callable[..., ApiServer]]:
    """Make API servers of the test's own (arguments of `ApiServer`), for tests that take them away."""
    made: list[ApiServer] = []

    def make(**settings: Any) -> ApiServer:
        made.append(ApiServer(**settings))
        return made[-1]

    yield make
    for server in made:
        server.close()
