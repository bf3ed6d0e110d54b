"""LiteLLM's proxy at its best: no database, no logging, simple-shuffle, as many workers as cores. Installed outside the checkout, hash-locked."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from e2e.lab.binaries import locked
from e2e.lab.paths import CHECKOUT, cache_dir
from e2e.lab.steps import sh, step

from . import objects
from .processes import Started, free_port, start, until

LOCKED = CHECKOUT / "requirements" / "bench.txt"
MODEL = "auto"


def version() -> str:
    """The pinned version."""
    found = re.search(r"^litellm==(\S+)", LOCKED.read_text(), re.MULTILINE)
    return found[1] if found else "unknown"


def ensure_litellm() -> Path:
    """The folder of its commands; installed on the first call. Raises LabError when pip fails."""
    digest = hashlib.sha256(LOCKED.read_bytes()).hexdigest()[:12]
    folder = cache_dir() / "bench" / f"litellm-{version()}-{digest}"
    with locked("bench-litellm"):
        if not (folder / ".installed").exists():
            with step(f"LiteLLM {version()} into a virtual environment of its own"):
                shutil.rmtree(folder, ignore_errors=True)
                sh(sys.executable, "-m", "venv", folder)
                sh(folder / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes", "-r", LOCKED)
                (folder / ".installed").touch()
    return folder / "bin"


def start_litellm(folder: Path, addresses: Sequence[str], port: int) -> tuple[Started, str]:
    """Start it before the same back ends; the process and its URL."""
    commands, own = ensure_litellm(), free_port()
    config = folder / "litellm.yaml"
    config.write_text(json.dumps(settings(addresses, port)))
    environment = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        # no key, no authentication: its best case, on loopback only
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "PATH": f"{commands}:{os.environ.get('PATH', '')}",
        "HOME": str(folder),
        "NO_PROXY": "*",
    }
    workers = str(os.cpu_count() or 1)
    # a worker needs longer to start than the 5 s after which its parent takes it for dead
    options = ("--host", "127.0.0.1", "--port", str(own), "--num_workers", workers, "--timeout_worker_healthcheck", "120", "--telemetry", "False")
    process = start(folder, "litellm", commands / "litellm", "--config", config, *options, env=environment)
    try:
        until(lambda: all(_answers(own) for _ in range(20)), "an answer from LiteLLM", process, 180)
    except BaseException:
        process.stop()
        raise
    return process, f"http://127.0.0.1:{own}"


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", "/v1/chat/completions", objects.body(MODEL), {"content-type": "application/json"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def settings(addresses: Sequence[str], port: int) -> dict[str, object]:
    """Its configuration file: two deployments of one model name."""
    deployments = [
        {"model_name": MODEL, "litellm_params": {"model": "openai/bench-model", "api_base": f"http://{address}:{port}/v1", "api_key": "none"}}
        for address in addresses
    ]
    return {
        "model_list": deployments,
        "router_settings": {"routing_strategy": "simple-shuffle"},
        "litellm_settings": {"set_verbose": False, "json_logs": False, "callbacks": [], "success_callback": [], "failure_callback": []},
        "general_settings": {"disable_spend_logs": True, "disable_error_logs": True},
    }
