PYTHON ?= python3
TORCH ?= torch==2.13.0
# Anything pip should be told about torch, such as the index of its builds without CUDA.
TORCH_FLAGS ?=
MODEL ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install -q --disable-pip-version-check
RUNTIME := $(VENV)/.runtime
DEVELOPMENT := $(VENV)/.development
# The package's older major version, beside the environment's own, for the client tests.
OPENAI_2 := $(VENV)/openai-2

.PHONY: run test check format test-exhaustive bench clean

run: $(RUNTIME)
	@$(BIN)/hat up $(MODEL)

$(RUNTIME): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'hat needs Python 3.11 or newer; name one: make PYTHON=python3.11' >&2; exit 1; }
	@echo 'Installing into $(VENV), which takes a few minutes the first time ...'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH_FLAGS) $(TORCH)
	$(PIP) -e '.[all]'
	@touch $@

$(DEVELOPMENT): $(RUNTIME)
	$(PIP) -e '.[dev]'
	$(PIP) --upgrade --target $(OPENAI_2) 'openai>=2,<3'
	@touch $@

check: $(DEVELOPMENT)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/pytest
	PYTHONPATH=$(OPENAI_2) $(BIN)/python -c 'import openai; assert openai.__version__[:2] == "2."'
	PYTHONPATH=$(OPENAI_2) $(BIN)/pytest tests/integration/test_openai_client.py \
	  tests/integration/test_http_end_to_end.py

format: $(DEVELOPMENT)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-exhaustive: $(DEVELOPMENT)
	$(BIN)/pytest -m exhaustive

# About 20 minutes on two cores; BENCH=--quick takes two or three and leaves the README as it is.
bench: $(RUNTIME)
	$(BIN)/python -m bench.suite $(BENCH)

clean:
	rm -rf $(VENV) .hat build dist
