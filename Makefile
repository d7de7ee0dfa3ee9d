# One environment for everything; `make demo` and `make test` set it up by themselves.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A GPU's packages in an environment of their own: onnxruntime and onnxruntime-gpu share one import folder.
GPU_VENV ?= .venv-gpu
GPU_STAMP := $(GPU_VENV)/.installed
# tensorrt-rtx, whose wheels lie on the Python index, or tensorrt.
TENSORRT ?= tensorrt-rtx
ROOMS := exporter runtimes quantization evaluation checkpoints

.DEFAULT_GOAL := help
.PHONY: help install demo train test lint typecheck bench test-gpu bench-gpu interop wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP) ## set up .venv with everything that development needs

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	for room in $(ROOMS); do ln -sfn ../../$$room src/codegen_edge/$$room; done
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP) ## export the trained checkpoint, prove it equal, quantize it, generate with it
	$(BIN)/codegen-edge demo .demo

test: $(STAMP) ## run the test suite
	$(BIN)/python -m pytest

lint: $(STAMP) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(STAMP) ## check types, strictly
	$(BIN)/mypy
	$(BIN)/mypy tests benchmarks

train: $(STAMP) ## train the checkpoint that ships with us anew; Ctrl-C and the same command go on
	$(BIN)/python -m codegen_edge.checkpoints.train

bench: $(STAMP) ## measure export memory, 350M parity, quantization and generation into benchmarks/results/
	$(BIN)/python -m benchmarks.export_memory
	$(BIN)/python -m benchmarks.parity_350m
	$(BIN)/python -m benchmarks.parse_rate
	$(BIN)/python -m benchmarks.quantization
	$(BIN)/python -m benchmarks.generation

$(GPU_STAMP): pyproject.toml
	$(PYTHON) -m venv $(GPU_VENV)
	for room in $(ROOMS); do ln -sfn ../../$$room src/codegen_edge/$$room; done
	$(GPU_VENV)/bin/python -m pip install --quiet torch
	$(GPU_VENV)/bin/python -m pip install --quiet --editable '.[cuda,$(TENSORRT),test]'
	touch $(GPU_STAMP)

test-gpu: $(GPU_STAMP) ## on a machine with an NVIDIA GPU: conformance and parity of cuda and tensorrt
	$(GPU_VENV)/bin/codegen-edge doctor
	CODEGEN_EDGE_NEEDS_GPU=1 $(GPU_VENV)/bin/python -m pytest tests/runtimes --ignore tests/runtimes/generation

bench-gpu: $(GPU_STAMP) ## there: prefill and decode of the 350M and 2B shapes beside torch
	$(GPU_VENV)/bin/codegen-edge doctor
	$(GPU_VENV)/bin/python -m benchmarks.gpu

interop: $(STAMP) ## generate from one bundle with optimum-onnx and transformers.js, each in its own environment
	$(BIN)/python -m benchmarks.interop.run

wheel: $(STAMP) ## build dist/*.whl
	$(BIN)/python -m build --wheel
	@ls dist

clean: ## remove what the targets made, but for .train, the state of a long training
	rm -rf $(VENV) $(GPU_VENV) build dist *.egg-info .interop .demo* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f $(addprefix src/codegen_edge/,$(ROOMS))
