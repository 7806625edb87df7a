# Each target does its own set-up: `make demo` and `make test` are all a new machine needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_FLAGS ?=
PYTEST_FLAGS ?=
LOCK_FLAGS := -q --upgrade --generate-hashes --no-emit-index-url --no-annotate --no-header --universal --python-version 3.11
PEER_FLAGS := -q --upgrade --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{split($$1, t, ":"); printf "  make %-16s %s\n", t[1], $$2}'

$(VENV)/.ready: requirements.lock pyproject.toml
	@echo "Installing Shoal and its tools into $(VENV) (about a minute the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv==0.13.9
	@$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready ## Make .venv with shoal, kubectl-shoal and the tools

.venv-scan/.ready: requirements-scan.lock $(VENV)/.ready
	@test -x .venv-scan/bin/python || $(PYTHON) -m venv .venv-scan
	@$(BIN)/uv pip install -q --python .venv-scan/bin/python --require-hashes -r requirements-scan.lock
	@touch $@

.PHONY: scan
scan: binaries .venv-scan/.ready ## checkov on the rendered chart and the Dockerfile
	@$(BIN)/pytest -q tests/chart/test_checkov.py

.PHONY: binaries
binaries: setup ## Build and cache the embedded control plane and helm (about 12 minutes the first time on two cores)
	@$(BIN)/python -m e2e.binaries

.PHONY: demo
demo: binaries ## The main job in about two and a half minutes: DEMO_FLAGS='--json' or '--keep'
	@$(BIN)/python -m e2e.demo $(DEMO_FLAGS)

.PHONY: check
check: setup ## Style, types, layers, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m shoal.api.generate --check

.PHONY: test
test: check binaries .venv-scan/.ready ## Everything CI runs
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

.PHONY: quick
quick: setup ## The pure tests alone
	$(BIN)/pytest -m 'not cluster and not long' $(PYTEST_FLAGS)

.PHONY: bench
bench: binaries ## The figures of the README, measured on this machine
	$(BIN)/python -m bench

.venv-h2h/.ready: bench/headtohead/requirements.lock bench/headtohead/requirements-aibrix.lock $(VENV)/.ready
	@echo "Installing the planners Shoal is compared with into .venv-h2h (1.3 GB) ..."
	@test -x .venv-h2h/bin/python || $(PYTHON) -m venv .venv-h2h
	@$(BIN)/uv pip install -q --python .venv-h2h/bin/python --require-hashes -r bench/headtohead/requirements.lock
	@$(BIN)/uv pip install -q --python .venv-h2h/bin/python --no-deps --require-hashes -r bench/headtohead/requirements-aibrix.lock
	@touch $@

.PHONY: headtohead
headtohead: .venv-h2h/.ready ## Shoal beside other planners in their simulators (hours; goes on where it stopped)
	PYTHONPATH=operator .venv-h2h/bin/python -m bench.headtohead

.PHONY: headtohead-lock
headtohead-lock: setup ## Resolve the peers' lock files again
	$(BIN)/uv pip compile $(PEER_FLAGS) bench/headtohead/requirements.in -o bench/headtohead/requirements.lock
	$(BIN)/uv pip compile $(PEER_FLAGS) --no-deps bench/headtohead/requirements-aibrix.in -o bench/headtohead/requirements-aibrix.lock

.PHONY: lock
lock: ## Resolve the lock files again from pyproject.toml
	$(BIN)/uv pip compile $(LOCK_FLAGS) --extra dev pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile $(LOCK_FLAGS) -c requirements.lock pyproject.toml -o images/requirements.lock
	echo 'checkov>=3' | $(BIN)/uv pip compile $(LOCK_FLAGS) - -o requirements-scan.lock

.PHONY: clean
clean: ## Remove .venv and caches of this checkout (the built binaries stay in the user's cache)
	rm -rf $(VENV) .venv-scan .venv-h2h .run .mypy_cache .ruff_cache .pytest_cache .hypothesis
