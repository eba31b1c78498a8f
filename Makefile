# `make demo` and `make test` set up .venv by themselves; nothing else is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# two processes; the tests of a file stay together, since they share what they make, and files come in
# order, since the longest have few tests and would be last
TOGETHER := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test test-fast check format clean

help:
	@echo "make demo       set up $(VENV), then walk through everything on this machine (3 to 9 minutes)"
	@echo "make test       set up $(VENV), then the whole test suite"
	@echo "make test-fast  the same without the slow tests"
	@echo "make check      lint, format and types"
	@echo "make setup      only set up $(VENV): about 5 minutes and 8 GB"

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --quiet --editable '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/nasdeploy run examples/quickstart.yaml

test: $(READY)
	$(BIN)/python -m pytest $(TOGETHER)

test-fast: $(READY)
	$(BIN)/python -m pytest $(TOGETHER) -m 'not slow'

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
