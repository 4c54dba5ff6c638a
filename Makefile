# Every target does its own set-up and works on a fresh clone that has only Python, git and make.
SHELL := /bin/sh
.DEFAULT_GOAL := help
BIN := .venv/bin
QUICKSTART ?= examples/quickstart.yaml
RUN_STAMP := .venv/.run-ready
DEV_STAMP := .venv/.dev-ready
SOURCES := operator/pyproject.toml trainer/pyproject.toml

.PHONY: help quickstart test lint e2e perf chaos cluster-up cluster-down images lock generate clean

##@ First steps

help: ## Print this help
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(RUN_STAMP) ## Run a whole verified search on this machine's CPU (about 8 minutes, no key, no GPU)
	@$(BIN)/autoresearch run $(QUICKSTART) --workdir runs/quickstart

##@ Checks

test: $(DEV_STAMP) ## Run every check that needs no GPU and no containers; what needs root or Go is skipped without
	@scripts/test

lint: $(DEV_STAMP) ## Run the static checks alone
	@scripts/lint

e2e: $(DEV_STAMP) ## Build both images, install the chart on a node with real containers and run on it (needs root, Go, Debian)
	@scripts/e2e

perf: $(DEV_STAMP) ## Measure the figures of docs/benchmarks.md at full size on this machine
	@scripts/perf

chaos: $(DEV_STAMP) ## Break disks, clocks, servers and clusters, and kill a run 100 times, against an undisturbed one (long)
	@AUTORESEARCH_FULL=1 $(BIN)/python -m pytest tests/chaos

##@ Cluster

cluster-up: $(DEV_STAMP) ## Leave a control plane with simulated GPU nodes running, to play with (needs Go; no root, no GPU)
	@scripts/cluster up $(CLUSTER_ARGUMENTS)

cluster-down: $(DEV_STAMP) ## End it
	@scripts/cluster down

images: ## Build both container images; REGISTRY=host/team TAG=0.1.0 PUSH=1 names and pushes them
	@scripts/images $(if $(REGISTRY),--registry "$(REGISTRY)") $(if $(TAG),--tag "$(TAG)") $(if $(PUSH),--push) $(IMAGE_ARGUMENTS)

##@ Upkeep

lock: .tools/ready ## Compile the hash-locked requirement files from the two pyproject files
	@scripts/lock

generate: $(DEV_STAMP) ## Rewrite what is generated from code (reference pages, CRDs, the chart's values schema)
	@$(BIN)/python scripts/generate_docs.py
	@$(BIN)/python scripts/generate_crds.py
	@$(BIN)/python scripts/generate_chart.py

clean: ## Remove environments and caches of this checkout (runs/ is yours and stays)
	@rm -rf .venv .tools .mypy_cache .ruff_cache .hypothesis .pytest_cache .import_linter_cache

.tools/ready: requirements/uv.txt scripts/bootstrap
	@scripts/bootstrap tools

$(RUN_STAMP): .tools/ready requirements/run.txt $(SOURCES)
	@scripts/bootstrap run

$(DEV_STAMP): .tools/ready requirements/dev.txt $(SOURCES)
	@scripts/bootstrap dev
