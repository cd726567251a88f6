# Needs python3 (3.11 or later) with venv; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test test-browser lint clean

demo: .venv/.installed  ## the whole method on the embedded world: seeds to report, in runs/sandbox
	$(BIN)/safer-steer run configs/sandbox.yaml --out runs/sandbox

test: .venv/.installed-dev  ## all tests but those that need a browser or a server of their own
	$(BIN)/python -m pytest tests --ignore=tests/browser --ignore=tests/integration

test-browser: .venv/.installed-browser chromium  ## the report in headless Chromium
	$(BIN)/python -m pytest tests/browser

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
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@ .venv/.installed

.venv/.installed-browser: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,browser]'
	@touch $@ .venv/.installed-dev .venv/.installed

clean:  ## remove the virtual environment; runs stay
	rm -rf .venv
