# One environment for everything; `make demo` and `make test` set it up by themselves.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One release everywhere: the newest one's default build brings gigabytes of CUDA.
TORCH := torch==2.13.0
# A GPU's packages in an environment of their own: onnxruntime and onnxruntime-gpu share one import folder.
GPU_VENV ?= .venv-gpu
GPU_STAMP := $(GPU_VENV)/.installed
# tensorrt-rtx, whose wheels lie on the Python index, or tensorrt.
TENSORRT ?= tensorrt-rtx
# The main job on other versions: the lowest that pyproject.toml admits, and whatever is newest today.
OLDEST_VENV ?= .venv-oldest
NEWEST_VENV ?= .venv-newest
COMPATIBILITY := $(PYTHON) -m benchmarks.compatibility
# Deprecations of a release that came out today are shown, and fail nothing.
MAIN_JOB := -m pytest -W default tests/test_main_job.py
# What the main job itself needs: clients of the server, in the extra test, do not work with our lowest versions.
PYTEST := hypothesis pytest pytest-timeout
TESTS := $(BIN)/python -m pytest --ignore tests/test_main_job.py
TEST_PROCESSES ?= 2
# mkdocs reads the sources and imports none, so the project itself is not installed there.
DOCS_VENV ?= .venv-docs
DOCS_STAMP := $(DOCS_VENV)/.installed
PRINT_DOCS_EXTRA := import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*project["optional-dependencies"]["docs"], sep="\n")
ROOMS := exporter runtimes generation quantization evaluation server checkpoints
LINK_ROOMS = for room in $(ROOMS); do ln -sfn ../../$$room src/codegen_edge/$$room; done

.DEFAULT_GOAL := help
.PHONY: help install demo train test test-oldest test-newest compatibility constraints lint typecheck bench peers \
	bench-peers test-gpu bench-gpu exactness exactness-elsewhere bench-exactness bench-serve soak fuzz chaos interop docs wheel \
	release-check clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-19s %s\n", $$1, $$2}'

install: $(STAMP) ## set up .venv with everything that development needs

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(LINK_ROOMS)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP) ## export the trained checkpoint, prove it equal, quantize it, generate with it
	$(BIN)/codegen-edge demo .demo

test: $(STAMP) ## run the test suite but for what takes minutes; the main job has targets of its own
	$(TESTS) -m "not quiet and not long" --numprocesses $(TEST_PROCESSES) --dist loadfile
	$(TESTS) -m quiet

test-all: $(STAMP) ## run the whole test suite and measure its coverage
	$(TESTS) -m "not quiet" --numprocesses $(TEST_PROCESSES) --dist loadfile --cov --cov-report=
	$(TESTS) -m quiet --cov --cov-append

test-oldest: ## the main job on the lowest versions that pyproject.toml admits, in .venv-oldest
	rm -rf build
	$(PYTHON) -m venv --clear $(OLDEST_VENV)
	$(COMPATIBILITY) lowest > $(OLDEST_VENV)/requirements.txt
	$(OLDEST_VENV)/bin/python -m pip install --quiet --requirement $(OLDEST_VENV)/requirements.txt '.[cpu,export]' $(PYTEST)
	$(OLDEST_VENV)/bin/python $(MAIN_JOB)

test-newest: ## the main job on the newest versions of the day, in .venv-newest
	rm -rf build
	$(PYTHON) -m venv --clear $(NEWEST_VENV)
	$(NEWEST_VENV)/bin/python -m pip install --quiet '.[cpu,test]'
	$(NEWEST_VENV)/bin/python $(MAIN_JOB)

compatibility: test-oldest test-newest ## both, and the versions into benchmarks/results and docs/compatibility.md
	$(OLDEST_VENV)/bin/python -m benchmarks.compatibility run oldest
	$(NEWEST_VENV)/bin/python -m benchmarks.compatibility run newest
	$(COMPATIBILITY) write

constraints: ## write constraints.txt anew: the newest versions of everything that `make install` installs
	rm -rf build
	$(PYTHON) -m venv --clear .venv-constraints
	.venv-constraints/bin/python -m pip install --quiet $(TORCH)
	.venv-constraints/bin/python -m pip install --quiet '.[dev]'
	$(PYTHON) -m benchmarks.constraints .venv-constraints/bin/python > constraints.txt
	rm -rf .venv-constraints

lint: $(STAMP) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(STAMP) ## check types, strictly
	$(BIN)/mypy
	$(BIN)/mypy tests benchmarks training examples

train: $(STAMP) ## train the checkpoint that ships with us anew; Ctrl-C and the same command go on
	$(BIN)/python -m training.train

bench: $(STAMP) ## measure export memory, 350M parity, quantization, generation, slots and grammars into benchmarks/results/
	$(BIN)/python -m benchmarks.export_memory
	$(BIN)/python -m benchmarks.parity_350m
	$(BIN)/python -m benchmarks.parse_rate
	$(BIN)/python -m benchmarks.quantization
	$(BIN)/python -m benchmarks.generation
	$(BIN)/python -m benchmarks.slots
	$(BIN)/python -m benchmarks.grammar
	$(BIN)/python -m benchmarks.micro
	$(BIN)/python -m benchmarks.neighbours
	$(BIN)/python -m benchmarks.calibration

peers: $(STAMP) ## install other programs that run CodeGen, each in an environment of its own in .venv-peers
	$(BIN)/python -m benchmarks.peers.environments

bench-peers: $(STAMP) ## the peers beside us: speed, memory, cold start and export, in interleaved rounds
	$(BIN)/python -m benchmarks.peers

$(GPU_STAMP): pyproject.toml
	$(PYTHON) -m venv $(GPU_VENV)
	$(LINK_ROOMS)
	$(GPU_VENV)/bin/python -m pip install --quiet torch
	$(GPU_VENV)/bin/python -m pip install --quiet --editable '.[cuda,$(TENSORRT),test]'
	touch $(GPU_STAMP)

test-gpu: $(GPU_STAMP) ## on a machine with an NVIDIA GPU: conformance and parity of cuda and tensorrt
	$(GPU_VENV)/bin/codegen-edge doctor
	CODEGEN_EDGE_NEEDS_GPU=1 $(GPU_VENV)/bin/python -m pytest tests/runtimes

bench-gpu: $(GPU_STAMP) ## there: prefill and decode of the 350M and 2B shapes beside torch
	$(GPU_VENV)/bin/codegen-edge doctor
	$(GPU_VENV)/bin/python -m benchmarks.gpu

exactness: $(STAMP) ## 1,000 random schedules for each scheme with exact steps, every logit compared as bytes
	CODEGEN_EDGE_SCHEDULES=1000 $(BIN)/python -m pytest tests/runtimes/test_exact.py -k schedule --timeout 3600

exactness-elsewhere: $(STAMP) ## the probe of exact steps on other processors' kernels, under qemu; needs qemu-user
	$(BIN)/python -m benchmarks.emulated

bench-exactness: $(STAMP) ## what batches and drafts change in each scheme, and what exact steps cost
	$(BIN)/python -m benchmarks.exactness
	$(BIN)/python -m benchmarks.outliers

bench-serve: $(STAMP) ## the server on the 350M shape: throughput, joins, prefixes, cancels, overload, equality
	$(BIN)/python -m benchmarks.serve

soak: $(STAMP) ## memory and errors: a server under mixed load with faults for half an hour, and 10,000 generations
	$(BIN)/python -m benchmarks.soak --minutes 30
	$(BIN)/python -m benchmarks.steady

fuzz: $(STAMP) ## mutate checkpoints, bundles, sessions and requests for an hour, into benchmarks/results/
	$(BIN)/python -m tests.fuzz --mutants 10000000 --seconds 3600 --json benchmarks/results/fuzz.json

chaos: $(STAMP) ## a kill or a fault at every call that writes, readers beside swaps, into benchmarks/results/
	$(BIN)/python -m tests.chaos --json benchmarks/results/chaos.json

interop: $(STAMP) ## generate from one bundle with optimum-onnx and transformers.js, each in its own environment
	$(BIN)/python -m benchmarks.interop.run

$(DOCS_STAMP): pyproject.toml
	$(PYTHON) -m venv $(DOCS_VENV)
	$(LINK_ROOMS)
	$(PYTHON) -c '$(PRINT_DOCS_EXTRA)' > $(DOCS_VENV)/requirements.txt
	$(DOCS_VENV)/bin/python -m pip install --quiet --requirement $(DOCS_VENV)/requirements.txt
	touch $(DOCS_STAMP)

docs: $(DOCS_STAMP) ## build the pages and the API reference into site/; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/python -m mkdocs build --strict

wheel: $(STAMP) ## build dist/*.whl
	rm -rf build
	$(BIN)/python -m build --wheel
	@ls dist

release-check: $(STAMP) ## build sdist and wheel, check them, run README's tour in an empty environment
	$(BIN)/python -m benchmarks.release_check

clean: ## remove what the targets made, but for .train, the state of a long training
	rm -rf $(VENV) $(GPU_VENV) $(OLDEST_VENV) $(NEWEST_VENV) $(DOCS_VENV) .venv-constraints .venv-peers .peers build dist site *.egg-info .coverage .interop .demo* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f $(addprefix src/codegen_edge/,$(ROOMS))
