"""The door to the session's API server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.api.door import Door
from tests.support.apiserver import ApiServer


@pytest.fixture(scope="module")
def door(apiserver_with_crds: ApiServer) -> Iterator[Door]:
    made = Door(apiserver_with_crds)
    yield made
    made.close()
