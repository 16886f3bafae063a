# Everything runs from .venv, which deploy/bootstrap.sh makes and keeps up to date.
SHELL := /bin/bash
BIN := .venv/bin
SUITES := tests/unit tests/contract tests/integration tests/model
HOST_SUITES := tests/deploy
OTHER_SUITES := $(filter-out $(SUITES) $(HOST_SUITES),$(patsubst %/,%,$(sort $(dir $(wildcard tests/*/test_*.py)))))

.PHONY: help serve test test-all test-deploy bench soak check docs-check format clean environment

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

# exec: a signal to this shell's process is one to the daemon, and make ends well when the daemon does.
serve: ## get a model, serve on http://127.0.0.1:8080 (ARGS="--port 9000")
	@deploy/bootstrap.sh serve && $(BIN)/appliance models pull --preferred && exec $(BIN)/appliance serve $(ARGS)

test: environment ## unit, contract, integration and SmolLM2 tests (ARGS="-k name")
	@[ -n "$$APPLIANCE_TEST_GGUF" ] || echo "left out: tests of the Qwen model, as APPLIANCE_TEST_GGUF names no GGUF file"
	@$(BIN)/pytest $(wildcard $(SUITES)) $(ARGS)

test-all: environment ## the suites that are not in test: imports that take a minute each
	@$(BIN)/python -c 'from importlib.metadata import version; version("optimum-intel")' 2>/dev/null || \
		echo "left out: exports of safetensors, as torch and optimum-intel are not here; deploy/bootstrap.sh export gets them"
	@$(if $(OTHER_SUITES),$(BIN)/pytest $(OTHER_SUITES) $(ARGS),echo "test-all: there are no suites besides those of make test")

test-deploy: ## on Debian hosts of their own with a running systemd; wants root (ARGS="-k name")
	@deploy/bootstrap.sh deploy && $(BIN)/pytest $(HOST_SUITES) $(ARGS)

# Not in CI: figures want a machine that does nothing else.
bench: ## the daemon beside the bare pipeline and llama.cpp, 15 minutes (ARGS="--only clients-8")
	@deploy/bootstrap.sh bench && exec $(BIN)/python -m benchmarks $(ARGS)

soak: environment ## churn a daemon of its own for a minute, and tell what leaked (ARGS="10": minutes)
	@deploy/soak.sh $(ARGS)

check: environment ## format, lint, types, layers, spelling, YAML, shell, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/yamllint --strict .
	$(BIN)/shellcheck deploy/*.sh .ci/run
	@$(MAKE) --no-print-directory docs-check

docs-check: environment ## every setting, metric, error code and command is in the docs, and nothing else
	$(BIN)/pytest --quiet tests/unit/test_docs.py

format: environment ## format, and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and all that was built; models stay
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find appliance benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

environment:
	@deploy/bootstrap.sh test
