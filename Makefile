# `make demo` and `make test` need only Python ≥ 3.11, pip and make: everything goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo setup test lint types floors check package clean

demo: .venv/ready
	$(BIN)/subspect demo

setup: .venv/ready

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile  # a process a core

lint: .venv/ready
	$(BIN)/ruff check src tests benchmarks examples .ci
	$(BIN)/ruff format --check src tests benchmarks examples .ci

types: .venv/ready
	$(BIN)/mypy

floors: .venv/ready
	$(BIN)/lint-imports --no-cache

check: lint types floors test

package:  # an environment of its own, since what is tried is the wheel
	$(PYTHON) .ci/package.py --demo $(PYTHON)

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "subspect needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv subspect-demo build dist
