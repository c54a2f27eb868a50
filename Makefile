# Every target installs what it needs; a stamp file makes that free the second time.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.setup-stamp

# Two processes with more threads than cores slow each other down tenfold.
export OMP_NUM_THREADS ?= 1
# Where stages write episodes, twins, policies and pages.
export WORLD_ENV_RUNS ?= runs
DEMO := $(WORLD_ENV_RUNS)/demo

.PHONY: help setup demo docs test test-slow check format clean
.DELETE_ON_ERROR:

help:
	@echo "make setup      build .venv with everything the tests use"
	@echo "make demo       CartPole: real episodes, a twin, PPO in the twin, a comparison and its page"
	@echo "make docs       the documentation, in docs/_build/html"
	@echo "make test       the fast tests"
	@echo "make test-slow  the slow tests"
	@echo "make check      format, lint, types, layers"
	@echo "make format     format and fix what can be fixed automatically"
	@echo "make clean      remove build outputs and caches (not .venv, not $(WORLD_ENV_RUNS))"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/python -m training.train_world_model CartPole-v1 --out $(DEMO)
	$(BIN)/python -m training.train_ppo --twin $(DEMO)/twin --out $(DEMO)/ppo.zip
	$(BIN)/python -m training.compare_returns --twin $(DEMO)/twin --policy $(DEMO)/ppo.zip --out $(DEMO)

docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

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
