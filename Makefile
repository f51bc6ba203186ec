# Each target installs what it needs into .venv, once; a stamp says that it is done.
PYTHON ?= python3
PARAMS ?= cpu
ONLY ?=
JOBS ?= 2
METHOD ?= glscl
SEEDS ?= 42 43 44
VIDEOS ?=
MICRO_BATCH ?= 16
MISSING ?= refuse
PRETRAINED ?= openai
BACKBONE ?= ViT-B-32-quickgelu
VARIANT ?=
LIST ?=

BIN := .venv/bin
CHAPTERS := $(foreach name,$(ONLY),--only $(name))

.PHONY: help book test check benchmark reproduce dist test-colab colab-branch clean

help:
	@echo "make book       run what changed, render the pages (PARAMS=smoke|cpu|gpu, ONLY=chapter)"
	@echo "make test       run the tests"
	@echo "make check      formatting, linters, types, spelling, clean notebooks"
	@echo "make reproduce  train and test on DATASET=msrvtt DATA=folder, one run a seed of SEEDS"
	@echo "make benchmark  measure speed and memory"
	@echo "make dist       build the package, check it, install it in an empty environment"
	@echo "make test-colab run a chapter with Colab's packages (LIST=its list, PYTHON=its Python)"
	@echo "make clean      remove pages, caches and generated data; .venv stays"

book: .venv/.build
	$(BIN)/python book/build.py book --params $(PARAMS) --jobs $(JOBS) $(CHAPTERS)

# One thread a process: the tests run side by side.
test: .venv/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

check: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell
	bash .ci/words.sh
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb
	$(BIN)/python book/build.py sources

benchmark: .venv/.test
	$(BIN)/python -m benchmarks

# One run of the report a seed; a run that was stopped goes on where it was.
reproduce: .venv/.build
	@test -n "$(DATASET)" && test -n "$(DATA)" || \
	  { echo "Say what and where: make reproduce DATASET=msrvtt DATA=/path/to/msrvtt"; exit 1; }
	for seed in $(SEEDS); do \
	  $(BIN)/python book/build.py run --params gpu --only 15_reproduction_report --force \
	    --set "dataset=$(DATASET)" --set "data_root=$(DATA)" \
	    $(if $(VIDEOS),--set "videos=$(VIDEOS)") \
	    $(if $(VARIANT),--set "variant=$(VARIANT)") \
	    --set "backbone=$(BACKBONE)" --set "pretrained=$(PRETRAINED)" \
	    --set "method=$(METHOD)" \
	    --set "micro_batch=$(MICRO_BATCH)" --set "missing=$(MISSING)" \
	    --set "seed=$$seed" || exit 1; \
	done

# Wheel and sdist, checked, and installed where nothing else is.
dist:
	rm -rf dist build _build/tools _build/empty
	$(PYTHON) -m venv _build/tools && $(PYTHON) -m venv _build/empty
	_build/tools/bin/python -m pip install -q build twine
	_build/tools/bin/python -m build --outdir dist .
	_build/tools/bin/python -m twine check --strict dist/*
	_build/empty/bin/python -m pip install -q -c constraints.txt dist/*.whl
	cd _build && empty/bin/glscl --help
	rm -rf build _build/tools _build/empty

test-colab: .venv/.test
	@test -n "$(LIST)" || { echo "Name Colab's list of packages: make test-colab LIST=file"; exit 1; }
	$(BIN)/python smoke_tests/colab.py "$(LIST)" --python "$(PYTHON)"

# What the launch buttons open: a branch of its own, made anew from each build.
colab-branch:
	git -C _build/colab init -q -b colab
	git -C _build/colab add -A
	git -C _build/colab -c user.name=book -c user.email=book@localhost \
	  commit -q -m "Notebooks for Colab from $$(git rev-parse HEAD)"
	git -C _build/colab push -q --force "$$(git rev-parse --absolute-git-dir)" colab
	git push --force origin colab

clean:
	rm -rf _build build dist data/mini data/cache .pytest_cache .ruff_cache .mypy_cache

.venv/.build .venv/.test: .venv/.%: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[$*]'
	@touch $@

# pip comes last into a new environment, so one that was cut short is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
