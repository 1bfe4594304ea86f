# make leaderboard   set up, run the study `quick` on real digits, print its leaderboard and write it as HTML
# make test          set up, lint, type-check, check the import rules, run the tests
# make benchmarks    speed measurements against the stated targets
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
READY := $(VENV)/.ready

.PHONY: leaderboard test benchmarks setup lint clean

leaderboard: $(READY)
	@status=0; $(BIN)/bnnbench run quick || status=$$?; $(BIN)/bnnbench leaderboard quick; exit $$status

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not benchmarks"  # two workers of two threads wait for each other

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

benchmarks: $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[test,benchmarks]'
	$(BIN)/python -m pytest -m benchmarks -s

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "bnnbench needs Python 3.11 or newer; $(PYTHON) is older. Use: make PYTHON=python3.12 ..."; exit 3; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { \
	  echo "installing python3-venv"; rm -rf $(VENV); apt-get update -q && apt-get install -qy python3-venv; \
	  $(PYTHON) -m venv $(VENV); }
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[test]'
	@touch $(READY)

clean:
	rm -rf $(VENV) results/runs results/leaderboard
