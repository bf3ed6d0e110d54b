"""The API-server fixture itself: it is real, it can be taken away and given back, and it leaves nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from e2e.lab import versions
from tests.support.apiserver import ApiServer


def test_reports_the_pinned_version_and_audits_writes(apiserver: ApiServer) -> None:
    told = json.loads(apiserver.kubectl("version", "-o", "json", check=True).stdout)
    assert told["serverVersion"]["gitVersion"] == versions.KUBERNETES
    apiserver.kubectl("create", "namespace", "audited", check=True)
    for _ in range(600):  # an answer may be here before the log tells of it
        writes = [e for e in apiserver.audit_events() if e["verb"] == "create" and e["objectRef"].get("name") == "audited"]
        if writes:
            break
        time.sleep(0.1)
    assert [e["user"]["username"] for e in writes] == ["admin"]


def test_objects_survive_a_stop_and_the_folder_does_not_survive_close(make_apiserver: Callable[..., ApiServer]) -> None:
    server = make_apiserver(users={"alice": ""})
    server.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept, namespace: default}\ndata: {a: b}\n")
    url = server.url
    server.stop()
    assert server.kubectl("get", "cm", "kept").returncode != 0
    server.start()
    assert server.url == url
    assert server.get("cm", "kept")["data"] == {"a": "b"}
    assert "forbidden" in server.kubectl("--kubeconfig", server.kubeconfig_of("alice"), "get", "secrets").stderr.lower()
    pids = [server._plane.process(n).pid for n in server._plane.process_names]
    server.close()
    assert all(pid and not Path(f"/proc/{pid}").exists() for pid in pids)
    assert not server.folder.exists()
