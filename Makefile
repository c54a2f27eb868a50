# Every target sets up what it needs; a stamp file makes that free the second time.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.setup-stamp

# Spinning threads of two processes on the same cores cost far more than they bring.
export OMP_NUM_THREADS ?= 1
# Where stages write episodes, twins, policies and pages.
export WORLD_ENV_RUNS ?= runs

.PHONY: help setup demo test test-slow check format clean
.DELETE_ON_ERROR:

help:
	@echo "make setup      build .venv with everything the tests use"
	@echo "make demo       real environment -> twin -> policy -> comparison, one page"
	@echo "make test       the fast tests"
	@echo "make test-slow  the slow tests"
	@echo "make check      format, lint, types, layers"
	@echo "make format     format and fix what can be fixed"
	@echo "make clean      remove build outputs and caches (not .venv, not $(WORLD_ENV_RUNS))"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/python -m world_env.cli.main demo

test: $(STAMP)
	$(BIN)/python -m pytest

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy world_env training
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quiet --durations=0 tests/test_layout.py

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
