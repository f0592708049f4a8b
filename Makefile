# A clone, a bare python3 (3.11 or later, for the versions in constraints.txt) and a package registry are all it takes.
PYTHON ?= python3
BIN := .venv/bin

# Exact versions, for what is installed and for what builds it (the second name is that of pip 25.3 and later).
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt

.PHONY: help test test-gpu demo bench clean

help:   ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

# Files side by side, each on one thread: pages of the docs share their variables.
test: export OMP_NUM_THREADS = 1
test: .venv/.test   ## lint, formatting, types, tests and the examples of the docs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# What a test makes is on the GPU then; `--device cpu` takes the same way on a host.
test-gpu: .venv/.test   ## on a machine with CUDA: the tests of any device there, those of two devices, and what a step costs
	$(BIN)/python -c "import torch; assert torch.cuda.is_available(), 'no CUDA device, or a build of torch without CUDA'"
	$(BIN)/pytest tests -m "gpu or any_device" --device cuda
	$(BIN)/python -m benchmarks.overhead --device cuda --losses 5 --out .venv/overhead-cuda.json

# glibc then keeps what a step has freed for the next one, instead of giving it back page by page.
demo: export MALLOC_MMAP_THRESHOLD_ = 1073741824
demo: export MALLOC_TRIM_THRESHOLD_ = 8589934592
demo: .venv/.examples   ## the multilingual example, in small
	$(BIN)/python -m benchmarks.multilingual --demo

bench: .venv/.bench .venv/.examples   ## the solvers beside others, their stress run, rules, noise, Pareto sets, costs, enforcement
	$(BIN)/python -m benchmarks.solvers
	$(BIN)/python -m benchmarks.solvers --stress
	$(BIN)/python -m benchmarks.solvers --batch
	$(BIN)/python -m benchmarks.rules
	$(BIN)/python -m benchmarks.noise
	$(BIN)/python -m benchmarks.pareto
	$(BIN)/python -m benchmarks.overhead --models mlp convnet transformer --losses 5 --repeats 5 --new
	$(BIN)/python -m benchmarks.overhead --scaling
	$(BIN)/python -m benchmarks.enforcement --problems network
	$(BIN)/python -m benchmarks.enforcement --problems multilingual --steps 20 --seeds 1 --repeats 0
	$(BIN)/python -m benchmarks.overhead.one_pass --threads 1 --losses 5

clean:   ## remove the environment and every cache
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# torch comes first and alone: a CPU build already at hand is then taken, and what follows is content with it.
.venv/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install torch
	touch $@

.venv/.examples: .venv/.torch pyproject.toml
	$(BIN)/pip install -e '.[examples]'
	touch $@

.venv/.bench: .venv/.torch pyproject.toml
	$(BIN)/pip install -e '.[bench]'
	touch $@

.venv/.test: .venv/.examples
	$(BIN)/pip install -e '.[test]'
	touch $@
