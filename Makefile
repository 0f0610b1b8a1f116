# Two commands do everything on a fresh machine with Python 3.11 or newer: make demo, make test.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.up-to-date
SEED ?= 1
PORT ?= 8000
SECONDS ?= 1200
OUT ?= runs/organa_demo-seed$(SEED)
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: env demo console-demo test lint types contracts unit coverage bench chaos clean help

help:            ## show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

env: $(STAMP)    ## build .venv, or re-use it where it is up to date

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or newer, or set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; set PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

demo: env        ## the main job on real OrganAMNIST: data, training, report, registered model
	$(BIN)/fedka data fetch organamnist
	$(BIN)/fedka run hospital_configs/organa_demo --out $(OUT) --seed $(SEED) --resume-if-begun
	$(BIN)/fedka models list

console-demo: env ## the clinicians' console: three hospitals, phantom scans, one organ that nobody named (PORT=8000)
	$(BIN)/fedka console demo --folder runs/console-demo --port $(PORT)

test: env lint types contracts unit  ## everything that CI runs

lint: env        ## ruff: format, rules, docstrings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: env       ## mypy strict
	$(BIN)/mypy

contracts: env   ## import contracts
	$(BIN)/lint-imports

unit: env        ## pytest
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

coverage: env    ## pytest once more, and how much of the program it ran: lines and branches
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --cov --cov-report=
	$(BIN)/coverage report --format=total --fail-under=92

bench: env       ## benchmarks/RESULTS.md: every benchmark on this machine, about a quarter of an hour on two idle cores
	$(BIN)/python -m benchmarks.run_all

chaos: env       ## the long failure test of a deployment: random faults for SECONDS=1200, by SEED=1; needs Linux
	$(BIN)/python -m benchmarks.chaos --seconds $(SECONDS) --seed $(SEED)

clean:           ## remove the environment and caches, keep runs
	rm -rf .coverage .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
