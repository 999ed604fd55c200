# Two commands matter: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REPO ?= .
PORT ?= 8080
COLLECTION := rulebooks/collections/ansible_collections/mcpbroker/eda
# Workers share Kafka and have a PostgreSQL each; a module's tests stay together, as some share a running app.
# Modules begin in the order of tests/conftest.py, the longest first.
# A run starts many processes of our own code, so it may keep what it compiled whatever the environment says.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadscope \
	--no-loadscope-reorder

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

up: setup ## Start the stack and leave it running. PORT=8080, OBSERVE=1: metrics and broker trace, DATA=folder to keep.
	$(BIN)/python -m devstack up --port $(PORT)$(if $(OBSERVE), --observe)$(if $(DATA), --data "$(DATA)")

down: setup ## End what `make up` started.
	$(BIN)/python -m devstack down

console: setup ## Print a one-time link to the running stack's console. USER_NAME=ada SCOPES=… IN=finance
	@$(BIN)/python -m devstack link --user $(or $(USER_NAME),ada) $(foreach s,$(SCOPES),--scope $(s)) $(foreach g,$(IN),--group $(g))

token: setup ## Print a token for the running stack. USER_NAME=ada SCOPES=tools IN=finance
	@$(BIN)/python -m devstack token --user $(or $(USER_NAME),ada) $(foreach s,$(or $(SCOPES),tools),--scope $(s)) $(foreach g,$(IN),--group $(g))

test: setup ## All tests, on real servers. The chaos run's seed is fixed here: SEED=2.
	MCP_BROKER_CHAOS_SEED=$(or $(SEED),2) $(PYTEST)

test-fast: setup ## The tests that need no Kafka, EDA, npm or killing, nor minutes: for each change.
	$(PYTEST) --numprocesses 4 --hypothesis-profile fast --ignore tests/system -m "not thorough"

test-failed: setup ## What failed in the last run, one at a time; fails where there was nothing.
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --last-failed --last-failed-no-failures none

chaos: setup ## Kill things at random for longer. SECONDS=900 SAGAS=1000 EDA_SECONDS=180 SEED=…
	MCP_BROKER_CHAOS_SEED=$(SEED) MCP_BROKER_CHAOS_SECONDS=$(or $(SECONDS),900) \
	MCP_BROKER_CHAOS_SAGAS=$(or $(SAGAS),1000) MCP_BROKER_CHAOS_SAGA_SECONDS=60 \
	MCP_BROKER_CHAOS_EDA_SECONDS=$(or $(EDA_SECONDS),180) MCP_BROKER_CHAOS_SETTLE=600 \
	$(BIN)/python -m pytest tests/system/chaos tests/system/machines tests/system/relay -s -m chaos --timeout 3600

hostile: setup ## Every kind of hostile value in every place of every entrance. ROUNDS=3 of each.
	MCP_BROKER_HOSTILE_KINDS=100 MCP_BROKER_HOSTILE_ROUNDS=$(or $(ROUNDS),3) \
	$(PYTEST) tests/edges/hostile tests/cli/test_hostile.py --timeout 3600

interop-agents: setup ## Real agents (Claude Code, Codex, …) against a model of ours. Fetches 1 GB once.
	MCP_BROKER_AGENTS=1 $(BIN)/python -m pytest tests/system/agents -v --timeout 900

interop-sdks: setup ## SDKs of Go, Rust, Java and Node.js, as built by their toolchains, and mcp-remote.
	MCP_BROKER_SDKS=1 $(BIN)/python -m pytest tests/system/sdks -v --timeout 900

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

collection: setup ## Build the Ansible collection mcpbroker.eda into build/.
	$(BIN)/ansible-galaxy collection build $(COLLECTION) --output-path build --force
	cp build/mcpbroker-eda-*.tar.gz build/mcpbroker-eda.tar.gz

pictures: setup ## Write the pictures of docs/console, in Chromium.
	WRITE_PICTURES=1 $(BIN)/python -m pytest tests/system/console -q

guarantees: setup ## Write docs/GUARANTEES.md, of tests/guarantees.yml and the tests that carry its ids.
	$(BIN)/python -m tests.support.guarantees

tampering: setup ## Write the table of docs/AUDITORS.md: every kind of tampering, tried.
	-WRITE_TAMPERING=1 $(BIN)/python -m pytest tests/audit/test_tampering_table.py -q
	$(BIN)/python -m pytest tests/audit/test_tampering_table.py -q

vectors: setup ## Write docs/audit-format anew: a real log, and each hash of docs/AUDIT_FORMAT.md.
	WRITE_VECTORS=1 $(BIN)/python -m pytest tests/audit/test_format.py -q

fmt: setup ## Format, and fix what the linter can.
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## Remove the virtual environment and caches.
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis dist

.PHONY: help setup demo demo-saga up down console token test test-fast test-failed chaos hostile interop-agents interop-sdks bench check schema guarantees tampering vectors pictures fmt clean
