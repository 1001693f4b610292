# make demo    the quickstart: sweep, recommendation, verification
# make test    lint, types, tests, and the wheel outside the checkout; at most six minutes on two idle cores
# make test-fast     what neither trains nor starts processes; at most one minute
# make test-slow     long simulations, chaos, sweeps and all further cases of `make test`; comparisons with other packages
# make test-interop  comparisons with other packages alone, which it installs
# All set up what they need in .venv; a second call installs nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INTEROP := $(VENV)/.interop

.DELETE_ON_ERROR:
.PHONY: setup demo test suite test-fast test-slow test-interop lint benchmark clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

$(INTEROP): $(READY)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[interop]"
	# Its torchvision, which nothing here uses, may not fit the torch that is installed.
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps mup
	touch $@

demo: $(READY)
	$(BIN)/hptransfer plan quickstart
	$(BIN)/hptransfer sweep quickstart
	$(BIN)/hptransfer verify quickstart
	$(BIN)/hptransfer export quickstart

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Style and types are checked beside the tests.
test: $(READY)
	$(MAKE) --no-print-directory --jobs 2 lint suite

# Three processes on two cores: one waits for the SLURM cluster most of the time, and holds no core.
suite: $(READY)
	$(BIN)/pytest -n 3 --no-loadscope-reorder -m "not slow and not interop"

test-fast: $(READY)
	$(BIN)/pytest -n 2 --no-loadscope-reorder -m fast

test-slow: $(INTEROP)
	$(BIN)/pytest -n 2 --no-loadscope-reorder --timeout 3600 -m "slow or interop"

test-interop: $(INTEROP)
	$(BIN)/pytest -m "interop and not slow"

benchmark: $(READY)
	$(BIN)/python benchmarks/throughput.py

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
