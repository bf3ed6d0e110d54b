# ruff: noqa: INP001 a script of an image, in no package
"""llama-server for the lab: llama.cpp's own HTTP server from the `xllamacpp` wheel, told what to do by llama-server's flags.

The flags keep llama-server's names and meaning; one it does not know is an error, as there. It differs in two ways. SIGTERM
first lets the requests in flight finish and exits when nothing was asked for two seconds: new requests are answered until
then, because a gateway learns of a leaving pod a moment after the pod does. And threads do not spin while they wait, so that
several servers share a small machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import xllamacpp

IDLE_SECONDS = 2.0
STOPPING = (signal.SIGTERM, signal.SIGINT)


def flags() -> argparse.ArgumentParser:
    """The flags of llama-server that the lab knows."""
    p = argparse.ArgumentParser(prog="llama-server", allow_abbrev=False)
    p.add_argument("--model", "-m", required=True)
    p.add_argument("--alias", "-a", default="")
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", type=int, default=8080)
    p.add_argument("--parallel", "-np", type=int, default=1)
    p.add_argument("--ctx-size", "-c", type=int, default=4096, help="tokens in all; each slot has ctx-size / parallel")
    p.add_argument("--threads", "-t", type=int, default=-1)
    p.add_argument("--threads-http", type=int, default=-1)
    p.add_argument("--batch-size", "-b", type=int, default=2048)
    p.add_argument("--ubatch-size", "-ub", type=int, default=512)
    p.add_argument("--predict", "--n-predict", "-n", type=int, default=-1)
    p.add_argument("--n-gpu-layers", "--gpu-layers", "-ngl", default="0", help="accepted and without effect: there is no GPU here")
    p.add_argument("--cache-ram", type=int, default=64, help="MiB of saved prompts")
    p.add_argument("--api-key", default="")
    p.add_argument("--metrics", action="store_true")
    p.add_argument("--slots", action="store_true")
    p.add_argument("--jinja", action="store_true", help="on anyway")
    p.add_argument("--no-webui", action="store_true", help="on anyway")
    p.add_argument("--cont-batching", "-cb", action="store_true", help="on anyway")
    return p


def params(args: argparse.Namespace) -> xllamacpp.CommonParams:
    """llama.cpp's parameters for these flags."""
    p = xllamacpp.CommonParams()
    p.model.path = args.model
    p.model_alias = {args.alias or Path(args.model).name}
    p.hostnames = [args.host]
    p.port = args.port
    p.n_parallel = args.parallel
    p.n_ctx = args.ctx_size
    p.n_threads_http = args.threads_http
    p.n_batch = args.batch_size
    p.n_ubatch = args.ubatch_size
    p.n_predict = args.predict
    p.cache_ram_mib = args.cache_ram
    p.cpuparams.n_threads = args.threads
    p.cpuparams.poll = 0
    p.endpoint_metrics = args.metrics
    p.endpoint_slots = args.slots
    p.use_jinja = True
    p.ui = False
    if args.api_key:
        p.api_keys = [args.api_key]
    return p


def busy(server: xllamacpp.Server) -> bool:
    """Whether a request is being served or waits."""
    gauges = ("llamacpp:requests_processing ", "llamacpp:requests_deferred ")
    lines = str(server.handle_metrics()).replace("\\n", "\n").splitlines()
    return any(line.startswith(gauges) and not line.endswith(" 0") for line in lines)


def say(text: str) -> None:
    """A line on stderr, where llama.cpp's own go."""
    sys.stderr.write(f"llama-server: {text}\n")
    sys.stderr.flush()


def main() -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    args = flags().parse_args()
    if not Path(args.model).exists():
        sys.exit(f"llama-server: no model file at {args.model}")
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    server = xllamacpp.Server(params(args))
    say(f"listening on {server.listening_address}")
    signal.sigwait(STOPPING)
    say("draining")
    idle_since = time.monotonic()
    while time.monotonic() - idle_since < IDLE_SECONDS:
        if busy(server):
            idle_since = time.monotonic()
        time.sleep(0.1)
    say("drained")
    os._exit(0)


if __name__ == "__main__":
    main()
