# Two commands matter: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REPO ?= .
PORT ?= 8080
# Workers share Kafka and have a PostgreSQL each; a module's tests stay together, as some share a running app.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadscope

.DEFAULT_GOAL := help

help: ## Show this.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 12

setup: $(VENV)/.done ## Make .venv from the lock file (other targets do it by themselves).

$(VENV)/.done: pyproject.toml uv.lock scripts/bootstrap.py
	$(PYTHON) scripts/bootstrap.py $(VENV)
	@touch $@

demo: setup ## Clone a repository through the whole stack, crash it, verify it. REPO=path or URL.
	$(BIN)/python -m devstack demo --repo "$(REPO)"

demo-saga: setup ## Run a saga that is done, and one that fails and leaves nothing.
	$(BIN)/python -m devstack demo-saga

up: setup ## Start the stack and leave it running. PORT=8080.
	$(BIN)/python -m devstack up --port $(PORT)

down: setup ## End what `make up` started.
	$(BIN)/python -m devstack down

token: setup ## Print a token for the running stack. USER_NAME=ada SCOPES=tools
	@$(BIN)/python -m devstack token --user $(or $(USER_NAME),ada) $(foreach s,$(or $(SCOPES),tools),--scope $(s))

test: setup ## All tests, on real servers. The chaos run's seed is fixed here: SEED=2.
	MCP_BROKER_CHAOS_SEED=$(or $(SEED),2) $(PYTEST)

test-fast: setup ## The tests that need no Kafka, EDA, npm or killing: all but tests/system.
	$(PYTEST) --ignore tests/system

chaos: setup ## Kill things at random for longer. SECONDS=900 SAGAS=1000 EDA_SECONDS=180 SEED=…
	MCP_BROKER_CHAOS_SEED=$(SEED) MCP_BROKER_CHAOS_SECONDS=$(or $(SECONDS),900) \
	MCP_BROKER_CHAOS_SAGAS=$(or $(SAGAS),1000) MCP_BROKER_CHAOS_SAGA_SECONDS=60 \
	MCP_BROKER_CHAOS_EDA_SECONDS=$(or $(EDA_SECONDS),180) MCP_BROKER_CHAOS_SETTLE=600 $(BIN)/python -m pytest tests/system/chaos tests/system/machines -s -m chaos --timeout 3600

bench: setup ## Measure the hot paths, each beside a baseline. ONLY=name, LONG=1 for all.
	$(BIN)/uv sync --locked --all-extras --group bench --inexact
	$(BIN)/python -m benchmarks --json benchmarks.json $(if $(ONLY),--only $(ONLY)) $(if $(LONG),--long)

check: setup ## Format, lint, types, import contracts.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports

schema: setup ## Write schema.sql, the migrated schema as one file.
	$(BIN)/python -m devstack.schema

guarantees: setup ## Write docs/GUARANTEES.md, of tests/guarantees.yml and the tests that carry its ids.
	$(BIN)/python -m tests.support.guarantees

fmt: setup ## Format, and fix what the linter can.
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## Remove the virtual environment and caches.
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis dist

.PHONY: help setup demo demo-saga up down token test test-fast chaos bench check schema guarantees fmt clean
