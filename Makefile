# Everything runs in its own virtual environment, which is created and filled on first use and again whenever
# pyproject.toml or constraints.txt changed. Needed on the machine: Python 3.10 to 3.13 and make.
#
#   make chat                      talk to the embedded tiny model
#   make chat MODEL=folder-or-name talk to real weights
#   make test                      run the tests            (ARGS= goes to pytest, e.g. ARGS="-n 0 -k engine")
#   make fuzz-api                  Schemathesis against a real server, from an environment of its own (SECONDS=300)
#   make check                     format, lint, types, import table, generated docs
#   make format                    rewrite the sources in the house format
#   make docs                      regenerate docs/cli.md and the transcripts in the READMEs
#   make clean                     remove the environment and all caches

VENV ?= .venv
PYTHON ?=
PIP_ARGS ?=
MODEL ?=
ARGS ?=
SECONDS ?= 300

python := $(VENV)/bin/python
# Compiling every file of torch and transformers would double the time of an install. What the program imports is
# compiled by importing it once, whatever PYTHONDONTWRITEBYTECODE says: without that every start takes seconds longer.
install := $(python) -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
compile := PYTHONDONTWRITEBYTECODE= $(python) -c
imports := chatglm.official.chat, chatglm.loading, chatglm.bare_loading, chatglm.engine.engine, chatglm.agent.session, chatglm.terminal.editor
# A sandbox's guest may write nothing: what it imports would be compiled at every start.
dev_imports := peft, pytest, hypothesis, gradio, openai, anthropic, IPython.core.interactiveshell, matplotlib.pyplot, pandas
# What an installation is made of: the kernels are compiled by it.
sources := pyproject.toml constraints.txt scripts/venv.sh hatch_build.py $(wildcard native/*.py native/*/*.h native/src/*.cpp)
run_ready := $(VENV)/.ready-run
dev_ready := $(VENV)/.ready-dev

.PHONY: help chat test fuzz-api check format docs clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

$(run_ready): $(sources)
	@PYTHON="$(PYTHON)" sh scripts/venv.sh $(VENV)
	@echo "make: installing chatglm into $(VENV) (PyTorch is large: a few minutes on a slow line)" >&2
	@$(install) -e .
	@$(compile) "import $(imports)"
	@touch $@

$(dev_ready): $(sources)
	@PYTHON="$(PYTHON)" sh scripts/venv.sh $(VENV)
	@echo "make: installing chatglm[dev] into $(VENV) (PyTorch is large: a few minutes on a slow line)" >&2
	@$(install) -e '.[dev]'
	@$(compile) "import $(imports), $(dev_imports)"
	@touch $(run_ready) $@

chat: $(run_ready)
	@$(VENV)/bin/chatglm chat $(if $(MODEL),--model '$(MODEL)') $(ARGS) || status=$$?; \
	[ "$${status:-0}" -eq 130 ] || exit "$${status:-0}"  # leaving with Ctrl-C is no failure of make

# tests/conftest.py says how many workers there are and who gets what. What one has compiled the next one need not.
test: $(dev_ready)
	PYTHONDONTWRITEBYTECODE= $(python) -m pytest -n logical $(ARGS)

# Schemathesis wants an older jsonschema_rs than this package: it lives beside, and meets the server over HTTP only.
fuzz-api: $(dev_ready)
	@test -x $(VENV)-fuzz/bin/schemathesis || { $(python) -m venv $(VENV)-fuzz && \
	$(VENV)-fuzz/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) 'schemathesis>=4.32,<5'; }
	$(python) tests/serve/fuzz_openapi.py $(VENV)-fuzz/bin/schemathesis --seconds $(SECONDS) $(ARGS)

check: $(dev_ready)
	$(python) -m ruff format --check .
	$(python) -m ruff check .
	$(python) -m mypy
	$(python) -m pytest --quiet tests/test_rooms.py
	$(python) docs/generate_cli.py --check
	$(python) tests/fuzz_parser.py --seconds 10
	$(python) native/tests/run.py

format: $(dev_ready)
	$(python) -m ruff format .
	$(python) -m ruff check --fix .

docs: $(dev_ready)
	$(python) docs/generate_cli.py
	$(python) docs/generate_transcript.py

clean:
	rm -rf $(VENV) $(VENV)-fuzz build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
