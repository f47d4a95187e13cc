# Two commands on a fresh machine with python3 (3.11+), make and pip: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test lint bench screenshots metrics lock clean

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The program and what it runs on, by hash; enough for `make demo`.
$(VENV)/.run: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(PIP) install --no-deps --require-hashes --only-binary :all: -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $@

# What the tests, the linters and the type checker need besides.
$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	$(PIP) install --no-deps --require-hashes -r requirements-dev.lock
	touch $@

$(VENV)/.bench: requirements-bench.lock $(VENV)/.dev
	$(PIP) install --no-deps --require-hashes -r requirements-bench.lock
	touch $@

demo: $(VENV)/.run
	$(BIN)/perfwatt demo

test: $(VENV)/.dev
	sh tests/debian-packages.sh
	$(BIN)/python -m pytest $(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Side by side in one run, on this machine; writes benchmarks/RESULTS.md.
bench: $(VENV)/.bench
	sh tests/debian-packages.sh bench
	$(BIN)/python -m benchmarks

# Every page at two widths, light and dark, as pictures in screenshots/.
screenshots: $(VENV)/.dev
	sh tests/debian-packages.sh
	$(BIN)/python -m tests.screenshots

metrics: $(VENV)/.run
	$(BIN)/python -m collector.metrics_page
	$(BIN)/python -m collector.tables_page

# Renews the lock files from pyproject.toml; they name versions and hashes, no registry.
UV := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade
lock:
	$(UV) --extra nvidia --group build pyproject.toml -o requirements.lock
	$(UV) --extra nvidia --group build --group dev pyproject.toml -o requirements-dev.lock
	$(UV) --extra nvidia --group build --group dev --group bench pyproject.toml -o requirements-bench.lock

clean:
	rm -rf $(VENV) .demo .cache build dist *.egg-info
