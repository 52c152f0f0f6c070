# `make demo`, `make test` and `make docs` need only Python ≥ 3.11, pip and make: everything goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
DOCS := $(wildcard docs/*.py) docs/_ext

.PHONY: demo setup test lint types floors docs check package audit clean

demo: .venv/ready
	$(BIN)/subspect demo

setup: .venv/ready

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations=30  # a process a core

lint: .venv/ready
	$(BIN)/ruff check src tests benchmarks examples .ci $(DOCS)
	$(BIN)/ruff format --check src tests benchmarks examples .ci $(DOCS)

types: .venv/ready
	$(BIN)/mypy

floors: .venv/ready
	$(BIN)/lint-imports --no-cache

docs: .venv/ready
	$(BIN)/python -m sphinx -b html -W --keep-going -n -q -d build/doctrees docs build/docs
	@echo "the site is build/docs/index.html"

check: lint types floors docs test

package:  # an environment of its own, since what is tried is the wheel
	$(PYTHON) .ci/package.py --demo $(PYTHON)

audit: build/audit/ready  # asks a service on the network, so it is no part of `make check`; what that does not know is an error
	build/audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip --strict --progress-spinner off

build/audit/ready:  # an environment of its own, since pip-audit's needs are none of subspect's
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	touch $@

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "subspect needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv subspect-demo build dist
