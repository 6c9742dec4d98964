# One command per task. Each one first makes the environment it needs (scripts/bootstrap.py) from
# git, make and any Python 3 with pip; when nothing has changed that takes a tenth of a second.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# The environment is the locked set and nothing of the caller's.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
PYTHON := $(BIN)/python
OUT ?= runs/demo
WORKERS ?= 2
MINUTES ?= 30
ENGINES ?= 15
SEED ?= 1
# More options for pytest, such as ARGS='-k parity'.
ARGS ?=
# Each pytest worker keeps to one core: two workers with two threads each would only wait.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 MPLBACKEND=Agg
PYTEST := $(ONE_THREAD) $(PYTHON) -m pytest -n $(WORKERS) --dist loadfile \
    --durations 15 --durations-min 5
CHECKS := format lint types imports locks rules

.PHONY: help setup demo test test-all check $(CHECKS) fix bench soak notebooks run-notebooks lock clean

help: ## Show this list
	@echo 'make TARGET, where TARGET is one of'
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | \
	    while IFS='|' read -r name text; do printf '  %-13s %s\n' "$$name" "$$text"; done

setup: ## Install everything into .venv (the other targets do it themselves)
	@sh scripts/bootstrap.sh

demo: setup ## Synthetic market, walk-forward, replay, tearsheet: the whole path in runs/demo
	@$(BIN)/levibot demo --out $(OUT)

test: setup ## Run the tests (minutes); WORKERS=2, ARGS='-k parity'
	@$(PYTEST) -m 'not slow' $(ARGS)

test-all: setup ## Run the longer proofs that `make test` leaves out: notebooks, then a soak by itself
	@$(PYTEST) -m slow $(ARGS)
	@$(if $(ARGS),,$(ONE_THREAD) $(PYTHON) -m tests.soak --minutes 5 --engines 15 --seed $(SEED))

check: setup ## Format, lint, types, import contracts, locked files, house rules
	@$(MAKE) -k $(CHECKS)

format: setup
	@$(BIN)/ruff format --check --output-format concise || { echo 'run: make fix'; exit 1; }

lint: setup
	@$(BIN)/ruff check

types: setup
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/mypy --no-error-summary scripts/*.py
	@$(BIN)/mypy --no-error-summary --explicit-package-bases -p tests.exchange -p tests.soak

imports: setup
	@$(BIN)/lint-imports --no-logo

locks: setup
	@$(PYTHON) scripts/lock.py --check

rules: setup
	@$(PYTHON) scripts/house_rules.py

fix: setup ## Format the code and repair what the linter can
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format

bench: setup ## Run the benchmarks against their budgets; ARGS='features' picks some
	@$(PYTHON) -m tests.benchmarks.run $(ARGS)

soak: setup ## Many engines while exchange and processes fail; MINUTES=5 ENGINES=15 SEED=1
	@OMP_NUM_THREADS=1 $(PYTHON) -m tests.soak --minutes $(MINUTES) --engines $(ENGINES) \
	    --seed $(SEED) $(ARGS)

notebooks: setup ## Open the notebooks in JupyterLab; ARGS='--no-browser' and others go to it
	@$(BIN)/jupyter lab --notebook-dir=notebooks $(ARGS)

run-notebooks: setup ## Run the notebooks and write their .ipynb with outputs; ARGS='01_data' picks some
	@$(PYTHON) scripts/run_notebooks.py $(ARGS)

lock: setup ## Resolve the dependencies anew; UPGRADE=1 takes the newest
	@$(PYTHON) scripts/lock.py $(if $(UPGRADE),--upgrade)

clean: ## Remove what the tools made (not data, runs or bundles)
	@rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache \
	    build dist levibot.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
