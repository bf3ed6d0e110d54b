# Two commands matter: `make demo` and `make test`. Everything they need is installed into .venv and the user's cache directory.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
CLUSTER ?= lab
BIN := .venv/bin
export CLUSTER IMAGE ENVOY_IMAGE ENGINE_IMAGE

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 16

.venv/.installed: requirements/dev.txt pyproject.toml
	@echo "==> installing Python dependencies into .venv"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "modelfleet needs Python 3.11 or newer; set PYTHON=python3.12, for example"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf .venv; $(PYTHON) -m venv .venv >/dev/null 2>&1 || $(MAKE) --no-print-directory python-venv; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

python-venv:
	@[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "could not create .venv: install Debian's python3-venv (apt-get install python3-venv)"; exit 1; }
	@echo "==> installing python3-venv"
	@apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends python3-venv >/dev/null
	@rm -rf .venv && $(PYTHON) -m venv .venv

venv: .venv/.installed  ## the Python environment

demo: venv  ## bring up a cluster and the example fleet, ask questions, show answers, cost and why
	@$(BIN)/python -m e2e.demo

demo-down: venv  ## remove the demo, and the lab with every trace of it
	@$(BIN)/python -m e2e.demo --down

test: check  ## everything: fast checks, real API server, real Envoy, the fleet on the lab
	@$(BIN)/python -m e2e.lab up
	@$(BIN)/python -m pytest -q -m "(real or lab or lab_lifecycle) and not faults" tests e2e --durations=15

check: format lint types contracts drift  ## the fast part, under two minutes
	@$(BIN)/python -m pytest -q -m "not real and not lab and not lab_lifecycle and not faults" tests

test-faults: venv  ## the whole fault suite: twenty seeds of kills on a real API server, then the long faults on the lab; about an hour
	@$(BIN)/python -m pytest -q tests/faults --durations=15
	@$(BIN)/python -m e2e.lab up
	@$(BIN)/python -m pytest -q -m faults e2e --durations=15

format: venv
	@$(BIN)/ruff format --check -q . || { echo "run: $(BIN)/ruff format ."; exit 1; }

lint: venv
	@$(BIN)/ruff check -q .

types: venv
	@$(BIN)/mypy

contracts: venv
	@$(BIN)/lint-imports --no-cache | tail -4

drift: venv
	@$(BIN)/modelfleet crds --check

chart: venv  ## bring the chart's copies up to date: accelerator classes and Envoy's bootstrap
	@cp policies/accelerators/*.yaml charts/modelfleet/files/accelerators/
	@$(BIN)/python -c "from modelfleet.core.routing.bootstrap import bootstrap_text; print(bootstrap_text('modelfleet-gateway'), end='')" > charts/modelfleet/files/envoy.yaml

crds: venv  ## regenerate crds/ and the CRD chart from the models
	@$(BIN)/modelfleet crds

licences: venv  ## licences of what runs in the image; fails on one that requirements/licences.toml does not allow
	@$(BIN)/python -m tools.licences

audit: venv  ## known vulnerabilities of what runs in the image (asks the advisory database: needs the internet)
	@$(BIN)/python -m tools.audit

lock:  ## regenerate the hash-locked requirements (needs uv)
	uv pip compile -q --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock" pyproject.toml -o requirements/runtime.txt
	uv pip compile -q --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock" pyproject.toml --group dev -o requirements/dev.txt
	uv pip compile -q --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock" requirements/bench.in -o requirements/bench.txt

bench-control: venv  ## figures of control plane and gateway on this machine, beside LiteLLM's; about twelve minutes, root (BENCH=--quick: three)
	@$(BIN)/python -m e2e.bench.control $(BENCH)

bench-scale: venv  ## the operator at 250 to 2,000 pools on a real API server; about fifteen minutes (BENCH=--quick: two)
	@$(BIN)/python -m e2e.bench.scale $(BENCH)

lab-up: venv  ## only the cluster
	@$(BIN)/python -m e2e.lab up

lab-down: venv
	@$(BIN)/python -m e2e.lab down

.PHONY: help venv python-venv demo demo-down test test-faults check format lint types contracts drift chart crds licences audit lock bench-control bench-scale lab-up lab-down
