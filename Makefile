# Every target installs what it needs; a stamp file makes that free the second time.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.setup-stamp

# Two processes with more threads than cores slow each other down tenfold.
export OMP_NUM_THREADS ?= 1
# Where stages write episodes, twins, policies and pages.
export WORLD_ENV_RUNS ?= runs
DEMO := $(WORLD_ENV_RUNS)/demo

.PHONY: help setup demo docs test test-slow test-clients check format clean
.DELETE_ON_ERROR:

help:
	@echo "make setup      build .venv with everything the tests use"
	@echo "make demo       CartPole: real episodes, a twin, PPO in the twin, a comparison and its page"
	@echo "make docs       the documentation, in docs/_build/html"
	@echo "make test       the fast tests"
	@echo "make test-slow  the slow tests"
	@echo "make test-clients  RL libraries train in twins, in two environments of their own in .clients"
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

# Two processes: each of them uses one core.
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

# Libraries whose requirements exclude ours or one another's. The output of each run is in .clients/NAME.log.
CLIENTS := libraries rllib
CLIENT_TESTS_libraries := $(filter-out %client_rllib.py,$(wildcard tests/clients/client_*.py))
CLIENT_TESTS_rllib := tests/clients/client_rllib.py tests/clients/client_documentation.py

CLIENT_LOGS := $(CLIENTS:%=.clients/%.log)

# Side by side: each of them uses one core.
test-clients:
	@$(MAKE) --no-print-directory -j2 $(CLIENT_LOGS)

# Phony: the tests always run.
.PHONY: $(CLIENT_LOGS)
$(CLIENT_LOGS): .clients/%.log: .clients/%/.setup-stamp
	@PYTHONPATH=. .clients/$*/bin/python -m pytest -c tests/clients/pytest.ini --rootdir tests/clients \
		-p no:cacheprovider $(CLIENT_TESTS_$*) >$@ 2>&1 || { cat $@; exit 1; }
	@grep -E '^=+ .*passed|^[0-9]+ passed' $@

# What a library pins otherwise is pinned in its requirements.
.PRECIOUS: .clients/%/.setup-stamp
.clients/%/.setup-stamp: tests/clients/requirements-%.txt constraints.txt
	rm -rf .clients/$*
	$(PYTHON) -m venv .clients/$*
	grep -vE '^(gymnasium|filelock)==' constraints.txt >.clients/$*/constraints.txt
	@.clients/$*/bin/pip install -c .clients/$*/constraints.txt -r $< >.clients/$*.install.log 2>&1 || \
		{ cat .clients/$*.install.log; exit 1; }
	touch $@

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
	rm -rf build dist *.egg-info .clients .mypy_cache .pytest_cache .ruff_cache
