# Everything runs in its own virtual environment, which is created and filled on first use and again whenever
# pyproject.toml or constraints.txt changed. Needed on the machine: Python 3.10 to 3.13 and make.
#
#   make chat                      talk to the embedded tiny model
#   make chat MODEL=folder-or-name talk to real weights
#   make test                      run the tests            (ARGS= goes to pytest, e.g. ARGS="-n 0 -k engine")
#   make check                     format, lint, types, import table, generated docs
#   make format                    rewrite the sources in the house format
#   make docs                      regenerate docs/cli.md and the transcripts in the READMEs
#   make clean                     remove the environment and all caches

VENV ?= .venv
PYTHON ?=
PIP_ARGS ?=
MODEL ?=
ARGS ?=

python := $(VENV)/bin/python
# Compiling every file of torch and transformers would double the time of an install. What the program imports is
# compiled by importing it once, whatever PYTHONDONTWRITEBYTECODE says: without that every start takes seconds longer.
install := $(python) -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
compile := PYTHONDONTWRITEBYTECODE= $(python) -c
imports := chatglm.official.chat, chatglm.loading, chatglm.bare_loading, chatglm.engine.engine, chatglm.agent.session, chatglm.terminal.editor
# What an installation is made of: the kernels are compiled by it.
sources := pyproject.toml constraints.txt scripts/venv.sh hatch_build.py $(wildcard native/*.py native/*/*.h native/src/*.cpp)
run_ready := $(VENV)/.ready-run
dev_ready := $(VENV)/.ready-dev

.PHONY: help chat test check format docs clean
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
	@$(compile) "import $(imports), peft, pytest, hypothesis, gradio"
	@touch $(run_ready) $@

chat: $(run_ready)
	@$(VENV)/bin/chatglm chat $(if $(MODEL),--model '$(MODEL)') $(ARGS) || status=$$?; \
	[ "$${status:-0}" -eq 130 ] || exit "$${status:-0}"  # leaving with Ctrl-C is no failure of make

# A worker for each processor, but no more than four: each imports torch, and some tests need a GB. All tests of a file
# go to one worker, for they share what they prepare.
test: $(dev_ready)
	$(python) -m pytest -n logical --maxprocesses 4 --dist loadfile $(ARGS)

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
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
