# demo    serve the demo on http://localhost:8501
# test    the whole suite, with coverage; installs Chromium from Debian's packages where that is possible
# long    what takes too long for every push: a chaos run of LONG_MINUTES, the state machine and the graphs at length
# check   formatting, lint, types, and the arrows between the modules
# matrix  the suite on the oldest and on the newest Streamlit and Python; MATRIX_ARGS="-m 'not browser'" for a part
# clean   remove everything that these made

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := test
.PHONY: demo test long check matrix matrix-oldest matrix-newest chromium clean

PORT ?= 8501
LONG_MINUTES ?= 10
TEST_ARGS ?=
WORKERS ?= 2
MATRIX_ARGS ?=

# The first of some interpreters that is there, new enough and able to make environments. A name alone says
# little: a pyenv shim of a version that is not chosen exists, but does not run.
newest_of = $(shell for python in $(1); do \
	if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo "$$python"; break; fi; done)

PYTHON ?= $(call newest_of,python3 python3.13 python3.12 python3.11 $(wildcard $(HOME)/.pyenv/versions/3.1[123]*/bin/python))
OLDEST_PYTHON ?= $(call newest_of,python3.11 $(wildcard $(HOME)/.pyenv/versions/3.11*/bin/python))
NEWEST_PYTHON ?= $(call newest_of,python3.13 $(wildcard $(HOME)/.pyenv/versions/3.13*/bin/python) \
	python3.12 $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python))
OLDEST_VERSIONS := streamlit==1.58.0 streamlit-cookies-controller==0.0.4 itsdangerous==2.2.0

PIP := -m pip --disable-pip-version-check --quiet

demo: .venv/.installed
	.venv/bin/python -m streamlit run demo/app.py --server.port=$(PORT) --server.address=127.0.0.1 \
		--browser.serverAddress=localhost --server.headless=true --browser.gatherUsageStats=false

# A file's tests stay together: they share its servers.
test: chromium .venv/.test
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile --cov $(TEST_ARGS)

long: .venv/.test
	MERGE_EXAMPLES=10000 MACHINE_EXAMPLES=2000 .venv/bin/python -m pytest --timeout=3600 tests/test_merge_graphs.py tests/test_conflicts_machine.py
	.venv/bin/python -m tests.long.chaos $(LONG_MINUTES)

check: .venv/.check
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy
	.venv/bin/lint-imports

matrix: matrix-oldest matrix-newest

matrix-oldest: chromium .venvs/oldest/.test
	.venvs/oldest/bin/python -m pytest -n $(WORKERS) --dist loadfile $(MATRIX_ARGS)

matrix-newest: chromium .venvs/newest/.test
	.venvs/newest/bin/python -m pytest -n $(WORKERS) --dist loadfile $(MATRIX_ARGS)

.venv/.made .venvs/oldest/.made .venvs/newest/.made: %/.made:
	@if [ -z "$(PYTHON_OF_$*)" ]; then echo "$(MISSING_$*)" >&2; exit 1; fi
	"$(PYTHON_OF_$*)" -m venv --clear $*
	touch $@

PYTHON_OF_.venv = $(PYTHON)
PYTHON_OF_.venvs/oldest = $(OLDEST_PYTHON)
PYTHON_OF_.venvs/newest = $(NEWEST_PYTHON)
MISSING_.venv = No Python 3.11 or newer with venv found; install python3 and python3-venv, or set PYTHON.
MISSING_.venvs/oldest = No Python 3.11 with venv found; install one, or set OLDEST_PYTHON.
MISSING_.venvs/newest = No Python 3.12 or 3.13 with venv found; install one, or set NEWEST_PYTHON.

.venv/.installed: .venv/.made pyproject.toml
	.venv/bin/python $(PIP) install --editable .
	touch $@

.venv/.test: .venv/.made pyproject.toml
	.venv/bin/python $(PIP) install --editable '.[test]'
	touch $@ .venv/.installed

.venv/.check: .venv/.made pyproject.toml
	.venv/bin/python $(PIP) install --editable '.[check,test]'
	touch $@ .venv/.test .venv/.installed

.venvs/oldest/.test: .venvs/oldest/.made pyproject.toml
	.venvs/oldest/bin/python $(PIP) install --editable '.[test]' $(OLDEST_VERSIONS)
	touch $@

.venvs/newest/.test: .venvs/newest/.made pyproject.toml
	.venvs/newest/bin/python $(PIP) install --upgrade --editable '.[test]' streamlit
	touch $@

# The browser tests drive the system's Chromium; the tests find it on PATH or by the variable CHROMIUM.
chromium:
	@if [ -n "$${CHROMIUM:-}$$(type -P chromium chromium-browser google-chrome)" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && type -P apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends chromium; \
	else \
		echo "No Chromium found. Install it (Debian: sudo apt-get install chromium), or name one in CHROMIUM." >&2; \
		exit 1; \
	fi

clean:
	rm -rf .venv .venvs dist build htmlcov .coverage .coverage.* \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis .grimp_cache .import_linter_cache
	find persist_session tests demo -name __pycache__ -type d -prune -exec rm -rf {} +
