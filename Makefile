# Everything a developer or a machine runs. `make` alone lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := flink_jobs udfs models

.PHONY: help setup demo test unit integration check format bench bench-quick fuzz feast interplay sbom lock jars-lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# The stamp's name holds no version: it is newer than the lock file or the environment is made anew.
$(VENV)/.ready: requirements.lock pyproject.toml
	@echo "Making the environment in $(VENV) with $$($(PYTHON) --version): about 500 MB the first time, 2 to 4 minutes."
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 12) else "Millrace needs Python 3.11 or 3.12: make setup PYTHON=/path/to/python3.11")'
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --progress-bar off --require-hashes --requirement requirements.lock \
		2> >(grep -v DEPRECATION >&2) | sed -u -n -E 's/^(Collecting|Building) ([^ ]+).*/  \1 \2/p; s/^Installing collected.*/  Installing; this takes a minute/p'
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@echo "Compiling the feature kernels: once, about a minute."
	@$(BIN)/python -c 'from flink_jobs.backfill_warm_up import warm_up_backfill; warm_up_backfill()'
	@$(BIN)/python -m flink_jobs.local.jars
	@touch $@

setup: $(VENV)/.ready ## Make the environment: locked Python packages, JRE, jars, compiled kernels
	@echo "Ready. Next: make demo"

demo: $(VENV)/.ready ## Stream shopping events through a local Kafka broker and score them live
	@$(BIN)/millrace demo

# Two files at a time, each by a process with a broker of its own: most of the time tests wait for starts and checkpoints.
# In their order: by itself, files with few tests come last, and one of minutes is left that runs alone.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.ready ## Run the unit and the integration tests, two files at a time
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE)

unit: $(VENV)/.ready ## Run the unit tests only (seconds, no JVM)
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/unit

integration: $(VENV)/.ready ## Run the tests on a real broker and a mini-cluster
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/integration

check: $(VENV)/.ready ## Lint and type-check; changes nothing
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(VENV)/.ready ## Sort imports and mend what ruff can mend
	@$(BIN)/ruff check --fix .

bench: $(VENV)/.ready ## Run all benchmarks; writes build/bench.json
	@$(BIN)/python -m tests.benchmarks

bench-quick: $(VENV)/.ready ## Run the benchmarks that give the ratios, in a few minutes
	@$(BIN)/python -m tests.benchmarks --quick

fuzz: $(VENV)/.ready ## Fuzz every decoder, FUZZ_SECONDS each (600 unless set); atheris is put into build/fuzz
	@$(BIN)/python -m pip install --quiet --require-hashes --requirement tests/fuzz/requirements.lock --target build/fuzz/atheris
	@PYTHONPATH=build/fuzz/atheris $(BIN)/python -m tests.fuzz

feast: $(VENV)/.ready ## Test our online stores with the real Feast, in an environment of its own (600 MB, once)
	@$(BIN)/python -c 'from tests.benchmarks.peers import FEAST, python_of; python_of(FEAST)'
	@$(BIN)/python -m pytest tests/integration/test_feast.py

interplay: $(VENV)/.ready ## Test other clients on our topics: Kafka Streams, Kafka Connect, Spark (700 MB, once)
	@$(BIN)/python -m tests.interplay
	@$(BIN)/python -m pytest tests/integration/test_connect_worker.py tests/integration/test_streams_reader.py \
		tests/integration/test_spark_reader.py

sbom: $(VENV)/.ready ## Write build/sbom.json: every locked package and jar with its digest (CycloneDX)
	@$(BIN)/python -m flink_jobs.bill_of_materials build/sbom.json

lock: ## Resolve pyproject.toml again into requirements.lock, and the image's part of it (needs uv)
	@uv pip compile --quiet --generate-hashes --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
		--extra dev --extra serve pyproject.toml --output-file requirements.lock
	@# the image has Flink's jars already, and builds what is published as source only with a locked setuptools
	@echo setuptools | uv pip compile --quiet --generate-hashes --python-version 3.11 --no-header --no-annotate \
		--no-emit-index-url --constraint requirements.lock --no-emit-package apache-flink-libraries \
		pyproject.toml - --output-file docker/requirements.lock

clean: ## Remove the environment and everything built or run here
	@rm -rf $(VENV) build .millrace
