# Two commands matter: `make quickstart` and `make test`. Everything lives in .venv and in the user's cache folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: env quickstart check format test fuzz test-toolchains test-archived test-whole lock clean help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

env: $(READY) ## make the harness's own environment (light: no torch, no engine)

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "quantbench needs Python 3.11 or newer; set PYTHON=")'
	@echo "making $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

quickstart: env ## build llama.cpp, take a real small model through every stage, print the report's path
	@$(BIN)/quantbench run experiment=quickstart $(ARGS)

check: env ## format, lint, layers, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: env ## rewrite files in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: env ## unit tests and real llama.cpp
	$(BIN)/quantbench toolchain install llama_cpp
	$(BIN)/python -m pytest -n 2 tests/unit
	$(BIN)/python -m pytest -m "not toolchains and not archived" tests/integration tests/e2e

fuzz: env ## throw mutated streams at the parser of answers (FUZZ_SECONDS=300)
	$(BIN)/python scripts/fuzz_stream.py --seconds $(or $(FUZZ_SECONDS),300)

test-toolchains: env ## tests that need further toolchains (llm-compressor, vLLM, …: some gigabytes)
	$(BIN)/python -m pytest -m "toolchains and not archived" tests/integration tests/e2e

test-archived: env ## on demand: gptqmodel, AutoAWQ and AutoGPTQ for real (20 minutes)
	$(BIN)/python -m pytest -s -m archived tests/integration

test-whole: env ## the whole quickstart, ten kills, every README command, four variants in vLLM (55 minutes)
	QUANTBENCH_TEST_WHOLE=1 $(BIN)/python -m pytest -s tests/e2e/test_quickstart.py tests/e2e/test_kill_at_random.py \
		tests/e2e/test_readme.py tests/integration/quantize/test_vllm_loads.py

lock: env ## pin again what pyproject.toml and the toolchains ask for
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --generate-hashes --no-header --python-version 3.11 \
		--quiet --output-file requirements.lock
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/lock_toolchains.py

clean: ## remove the environment and caches of this checkout (not results, not the user's cache folder)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
