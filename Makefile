# Each target works alone on a fresh machine with make and Python 3.10 or newer: all of them run `setup` first.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
SPACE ?= $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),8,4)
WORKERS ?= 2
THREADS ?= 1
ARGS ?=

PY := $(VENV)/bin/python
PST := $(VENV)/bin/pst
STAMP := $(VENV)/.setup-done
# one thread for each test worker: numeric libraries would otherwise start one for every core in each of them
PYTEST := OMP_NUM_THREADS=$(THREADS) MKL_NUM_THREADS=$(THREADS) $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint types format package bench bench-check study docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with all that demo and test need; at once when it is there already

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.10 or newer found: install one, or pass PYTHON=/path/to/python" >&2; exit 1; }
	@ls $(VENV)/lib/python*/site-packages/torch >/dev/null 2>&1 || \
	{ df -Pk "$(dir $(abspath $(VENV)))" 2>/dev/null || df -Pk .; } | awk 'NR == 2 && $$4 < $(SPACE) * 1e6 { \
		printf "make: setup needs $(SPACE) GB of disk, most of it for PyTorch, and %.1f GB are free: free some, " \
		"put the environment on another disk with VENV=/path, or try all the same with SPACE=0\n", $$4 / 1e6; exit 1 }' >&2
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install "pip>=23.1"
	$(PY) -m pip install --editable ".[all]"
	$(PST) info
	@touch $@

demo: setup ## train, evaluate and report on the embedded data: runs/demo/report.html (ARGS="--epochs 50" adds options)
	$(PST) demo $(ARGS)

test: setup ## the tests but the slow ones (ARGS="-k name" adds options)
	$(PYTEST) -m "not slow" $(ARGS)

test-all: setup ## every test, with coverage, which takes half as long again
	$(PYTEST) --cov=pst $(ARGS)

lint: setup ## style and format
	$(PY) -m ruff check
	$(PY) -m ruff format --check

types: setup ## types
	$(PY) -m pyright

format: setup ## repair what ruff can
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

bench: setup ## measure speed and memory against the targets, ten minutes (ARGS adds options)
	$(PY) -m lab bench targets $(ARGS)

bench-check: setup ## the ratios of the targets again, two minutes; says which are missed
	$(PY) -m lab bench check $(ARGS)

study: setup ## docs/studies.md from the studies' results (ARGS="run lab/studies/levels.yaml --data-root ..." trains)
	$(PY) -m lab study $(or $(ARGS),report lab/studies/*.yaml --results lab/results/study --out docs)

docs: setup ## the documentation, as build/docs/index.html
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict

package: setup ## wheel and sdist in dist/, checked, the wheel installed beside torch alone
	$(PY) .ci/package.py

clean: ## remove .venv and caches, not runs/
	rm -rf $(VENV) build dist .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis
