"""What cannot work ends at once with a sentence that names the cure."""

from __future__ import annotations

import socket

from tests.operator.running import OperatorProcess


async def test_a_port_in_use(tmp_path, server):
    with socket.create_server(("", 0)) as taken:
        other = OperatorProcess(tmp_path, server.kubeconfig, "default", PORT=str(taken.getsockname()[1]))
        assert await other.ends() == 1
        assert "MODELFLEET_PORT" in other.text()


async def test_no_credentials(tmp_path):
    operator = OperatorProcess(tmp_path, tmp_path / "absent", "default")
    assert await operator.ends() == 1
    assert "error: there is no kubeconfig at" in operator.text()
    assert "Traceback" not in operator.text()


async def test_a_wrong_setting(tmp_path):
    operator = OperatorProcess(tmp_path, tmp_path / "absent", "default", LEASE_RENEW="soon")
    assert await operator.ends() == 1
    assert operator.text().startswith("error: MODELFLEET_LEASE_RENEW must be a number of seconds")
