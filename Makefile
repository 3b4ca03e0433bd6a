# Everything that a fresh machine needs: python3 (3.10 or newer), git and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run quick experiments capacity tune test test-all soak test-unit test-integration test-pipeline test-system \
	test-litserve test-versions test-newest test-oldest check audit serve

run: .venv/installed
	$(BIN)/dvc repro
	$(BIN)/litmeter results
	$(BIN)/litmeter report

# A first comparison: little training, few rounds, and nothing is kept.
quick: .venv/installed
	$(BIN)/litmeter quick

# The rates of all experiments of `dvc exp run`, what each changed, and what came of it.
experiments: .venv/installed
	$(BIN)/litmeter experiments

# How much traffic the configurations of `objective:` can take.
capacity: .venv/installed
	$(BIN)/dvc repro ondemand/dvc.yaml:capacity
	$(BIN)/litmeter results
	$(BIN)/litmeter report

# Which configuration serves most on this machine.
tune: .venv/installed
	$(BIN)/dvc repro ondemand/dvc.yaml:tune
	$(BIN)/litmeter results
	$(BIN)/litmeter report

# Side by side, a file per process and in the order given, as most tests wait for a while. FIRST begins at once: the
# other tests of the pipeline copy its run. The longest files are EARLY while it runs, then LONG; short ones come last,
# and fill what is left of the cores. They are named one by one, as pytest drops the name of a file beside that of its
# folder. Torch's threads do not spin while they wait for each other: where the cores are taken, that costs more than
# it saves.
SIDE_BY_SIDE := --dist loadfile --no-loadscope-reorder -n
BUSY := OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest $(SIDE_BY_SIDE)
FIRST := tests/pipeline/test_walk.py
EARLY := $(patsubst %,tests/integration/test_%.py,check inductor tune_surface run scripts cluster preflight streams)
LONG := $(patsubst %,tests/pipeline/test_%.py,own_model experiments changes examples killed tune own_server)
OTHERS := $(filter-out $(FIRST) $(EARLY) $(LONG),$(wildcard tests/pipeline/test_*.py tests/integration/test_*.py))
CAPACITY := tests/measuring/test_capacity.py

# Whether the product works: static checks, unit tests, recorded runs, and smoke tests on real parts.
test: .venv/installed-test
	$(MAKE) --no-print-directory --jobs 2 check test-unit
	$(BUSY) 6 -m smoke $(FIRST) $(EARLY) $(LONG) $(OTHERS)

# All else. Those that measure come after the others: they want a quiet machine. Searches for the capacity of a stub,
# which have it mostly idle, are by themselves: beside others, more of their probes are void. The shipped params.yaml
# runs once from end to end.
test-all: .venv/installed-test
	$(BUSY) 6 -m 'not smoke and not soak' $(FIRST) $(EARLY) $(LONG) $(OTHERS)
	$(BIN)/pytest $(SIDE_BY_SIDE) 3 tests/measuring --ignore $(CAPACITY)
	$(BIN)/pytest $(CAPACITY)
	$(MAKE) --no-print-directory quick
	$(MAKE) --no-print-directory test-litserve
	$(MAKE) --no-print-directory test-system
	$(MAKE) --no-print-directory test-versions

test-unit test-integration test-pipeline: .venv/installed-test
	$(BUSY) 2 tests/$(@:test-%=%)

soak: .venv/installed-test
	$(BIN)/pytest -m soak tests

check: .venv/installed-test
	$(BIN)/ruff check src tests studies examples
	$(BIN)/ruff format --check src tests studies examples
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

# What needs programs of the system's: a Chromium, which looks at the pages; wrk, which `litmeter verify` compares
# with; and ip (as root).
test-system: .venv/installed-test
	$(BIN)/pytest tests/browser tests/tools

# LitServe's own scripts; then older releases of LitServe, with releases of uvicorn of their time.
test-litserve: .venv/installed-test
	$(BIN)/pytest -n 2 tests/scripts
	tests/litserve_versions.sh 'litserve==0.2.6 uvicorn==0.29.0' 'litserve==0.2.10 uvicorn==0.34.0' litserve==0.2.13 \
		'litserve uvicorn'

# Both ends of the ranges in pyproject.toml, side by side, each in an environment of its own: the newest releases on the
# newest Python on the PATH, and the oldest that are allowed on the oldest Python.
PYTHON_NEWEST ?= $(shell for minor in $$(seq 30 -1 10); do \
	python3.$$minor -c '' 2>/dev/null && echo python3.$$minor && break; done)
PYTHON_OLDEST ?= python3.10

test-versions:
	$(MAKE) --no-print-directory --jobs 2 test-newest test-oldest

test-newest:
	tests/versions.sh newest $(PYTHON_NEWEST)

test-oldest:
	tests/versions.sh oldest $(PYTHON_OLDEST)

# Asks PyPI about each installed release; one that it knows nothing of fails, too. A local build (torch's
# "+cpu") is looked up as the release that it was made from.
audit: .venv/installed-audit
	@$(BIN)/pip freeze --exclude-editable | sed 's/+[^+]*$$//' > .venv/audited.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement .venv/audited.txt

serve: .venv/installed
	$(BIN)/litmeter serve

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -e '.[train,compile,dvc]'
	@touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --disable-pip-version-check -e '.[test]'
	@touch $@

.venv/installed-audit: .venv/installed
	$(BIN)/pip install --disable-pip-version-check -e '.[audit]'
	@touch $@
