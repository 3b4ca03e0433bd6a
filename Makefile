# Everything that a fresh machine needs: python3 (3.10 or newer), git and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test serve

run: .venv/installed
	$(BIN)/dvc repro
	$(BIN)/servebench readme

test: .venv/installed-test
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/pytest

serve: .venv/installed
	$(BIN)/servebench serve

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -e .
	@touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --disable-pip-version-check -e '.[test]'
	@touch $@
