# Everything runs in one .venv, which each target makes when it is not there. PYTHON=python3.12 make demo picks another Python.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= out/demo
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export DO_NOT_TRACK = 1

.PHONY: demo test check soak lint clean

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Anyloom takes Python 3.11 or newer; this is %s: say PYTHON=python3.11 make …" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml setup.py
	$(BIN)/python -m pip install --quiet -e '.[flows]'
	touch $@

.venv/.dev: .venv/bin/python pyproject.toml setup.py
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

# Set-up and the main job: a picture and a recording in; a picture, a spoken answer and music out; stored, evicted, replayed.
demo: .venv/.demo
	$(BIN)/anyloom demo --out $(OUT)

# Set-up and the whole suite, slow tests included (soak excepted).
test: .venv/.dev
	$(BIN)/python -m pytest -m 'not soak'

# The quick loop: style, types, import contracts, fast tests.
check: lint
	$(BIN)/python -m pytest -q -m 'not slow and not soak'

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .venv/linked && ln -sfn ../.. .venv/linked/anyloom  # the root of the repository is the package; mypy finds it by this name
	MYPYPATH=.venv/linked $(BIN)/mypy
	$(BIN)/lint-imports

# What is too long for `make test`.
soak: .venv/.dev
	$(BIN)/python -m pytest -m soak

clean:
	rm -rf .venv build dist *.egg-info
