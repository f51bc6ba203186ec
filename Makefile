# Each target installs what it needs into .venv, once; a stamp says that it is done.
PYTHON ?= python3
PARAMS ?= cpu
ONLY ?=
JOBS ?= 2

BIN := .venv/bin
CHAPTERS := $(foreach name,$(ONLY),--only $(name))

.PHONY: help book test check benchmark clean

help:
	@echo "make book       run what changed, render the pages (PARAMS=smoke|cpu|gpu, ONLY=chapter)"
	@echo "make test       run the tests"
	@echo "make check      formatting, linters, types, spelling, clean notebooks"
	@echo "make benchmark  measure speed and memory"
	@echo "make clean      remove pages, caches and generated data; .venv stays"

book: .venv/.book
	$(BIN)/python book/build.py book --params $(PARAMS) --jobs $(JOBS) $(CHAPTERS)

# One thread a process: the tests run side by side.
test: .venv/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

check: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb
	$(BIN)/python book/build.py sources

benchmark: .venv/.test
	$(BIN)/python -m benchmarks

clean:
	rm -rf _build build data/mini data/cache .pytest_cache .ruff_cache .mypy_cache

.venv/.book .venv/.test: .venv/.%: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[$*]'
	@touch $@

# pip comes last into a new environment, so one that was cut short is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
