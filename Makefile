# Every target works on a clean clone: the first one that needs it makes .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PORT ?= 3000

.PHONY: help demo test test-mimicgen reliability ui lint format bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

# torch first and alone: any other order lets pip choose another build of it. See docs/decisions/0002-one-environment.md.
$(READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip==26.3
	$(BIN)/pip install --quiet -c constraints.txt setuptools
	$(BIN)/pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --no-build-isolation -c constraints.txt --editable '.[test]'
	$(BIN)/pip install --quiet --no-deps -c constraints.txt robosuite praxis-robomimic torchvision openpi-client rlinf-openpi
	touch $@

demo: $(READY)  ## materialise the demonstration study end to end and print its benchmark
	$(BIN)/tracebed demo

test: $(READY)  ## run the tests
	$(BIN)/pytest -n 2 --dist loadfile

# The Python that has MimicGen beside a robosuite, and a checkout of MimicGen, which is on its path for these tests only.
MIMICGEN_PYTHON := $(or $(TRACEBED_PYTHON_MIMICGEN),$(BIN)/python)
test-mimicgen: $(READY)  ## run the mimicgen suite's tests on a checkout of MimicGen (CHECKOUT=/path/to/mimicgen)
	@test -f "$(CHECKOUT)/mimicgen/__init__.py" || { echo "found no MimicGen at CHECKOUT='$(CHECKOUT)'; expected a \
	clone of https://github.com/NVlabs/mimicgen (licence: non-commercial use only)"; exit 2; }
	CHECKOUT="$(CHECKOUT)" PYTHONPATH="$(CHECKOUT):$$PYTHONPATH" PYTHONDONTWRITEBYTECODE=1 \
	$(MIMICGEN_PYTHON) -m pytest -p no:cacheprovider tests_mimicgen

reliability: $(READY)  ## run the fault tests on a real Slurm and sshd and write the table of docs/reliability.md
	$(BIN)/pytest -n 2 --dist loadfile -m fault --fault-table=docs/reliability.md tests

ui: $(READY)  ## Dagster's UI on http://127.0.0.1:3000 (PORT=... for another)
	$(BIN)/tracebed ui --port $(PORT)

lint: $(READY)  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .

format: $(READY)  ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)  ## measure speed and memory against named baselines and print the tables
	$(BIN)/python -m bench

clean:  ## remove the environment and caches; data in .tracebed stays
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
