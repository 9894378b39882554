# Every target first installs its requirements into .venv, if they have changed. A marker file in .venv records each completed level
# of setup: .created (an empty environment), .checked (for `make check`), .installed (for `make repro`), .tests (tests and tools).
BIN := .venv/bin
ifdef PYTHON # the Python that .venv must use
override PYTHON := $(shell command -v $(PYTHON) || echo $(PYTHON))
WANTED := $(PYTHON)
else # any that works
PYTHON := $(shell command -v python3 || echo python3)
WANTED := $(BIN)/python
endif
SHAKESPEARE := https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt
SHAKESPEARE_SHA256 := 86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed
UI_PORT ?= 5000
FAST := exercises layers model optimizer params sampler size trainer vocab weights

export PATH := $(CURDIR)/$(BIN):$(PATH)
# DVC needs a user name, which containers may lack.
export USER := $(or $(USER),$(shell id -u))
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help setup extras repro seconds minute best check test torture ui sample explore shakespeare bench lint clean notebook register

help:
	@echo "make repro        run the pipeline, from the corpus to the attention maps"
	@echo "make seconds      train a small model in seconds (recipes/seconds.txt), as a DVC experiment"
	@echo "make minute       train a model in about a minute (recipes/minute.txt), as a DVC experiment"
	@echo "make best         train the best model in about a quarter of an hour (recipes/best.txt), as a DVC experiment"
	@echo "make sample       generate text with the trained model or, if there is none, with the pretrained weights"
	@echo "make explore      open the explorer, a page that runs the trained model or the pretrained weights in the browser"
	@echo "make ui           start the MLflow UI on port 5000 (UI_PORT=5001 selects another port)"
	@echo "make register     register the trained weights in the MLflow model registry"
	@echo "make notebook     execute the notebook and save its outputs"
	@echo "make test         run all tests"
	@echo "make check        run the fast tests, which do not need DVC, MLflow or a browser"
	@echo "make torture      run stress tests: kill training at 60 random moments, load 100,000 damaged weights files (about 20 minutes)"
	@echo "make lint         check style, types and the CI workflow"
	@echo "make shakespeare  download the tiny Shakespeare corpus to data/shakespeare.txt"
	@echo "make bench        compare time to loss with nanoGPT, then speed and memory with PyTorch (ARGUMENTS=--quick shortens the latter)"
	@echo "make setup        create the environment .venv"
	@echo "make extras       install optional dependencies: SSH and S3 remotes, PostgreSQL, MPI"
	@echo "make clean        delete .venv, tool caches, checkpoints and all outputs; keep corpora, MLflow runs and the DVC cache"

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

setup: .venv/.installed

# .created records this folder and the Python of .venv. The scripts of .venv contain both, so it is recreated if the
# checkout was moved or copied, or if its Python was removed or PYTHON selects another. A symbolic link is never recreated.
ORIGIN := import os, sys; print(os.getcwd(), sys.base_prefix, *sys.version_info[:2])

.venv/.created: FORCE
	@if [ -e .venv ] && [ -L .venv ]; then exit; fi; \
	if [ -x $(BIN)/python ] && [ "$$($(WANTED) -c '$(ORIGIN)' 2>/dev/null)" = "$$(cat $@ 2>/dev/null)" ]; then exit; fi; \
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "error: BareGPT requires Python 3.11 or newer, but this is " + sys.version.split()[0] + "; choose another with `make PYTHON=...`")' \
		&& if [ -L .venv ]; then rm .venv; fi && $(PYTHON) -m venv --clear .venv && $(BIN)/python -c '$(ORIGIN)' >$@

FORCE:

.venv/.checked: requirements.txt requirements-tests.txt pyproject.toml .venv/.created
	@$(PIP) --constraint requirements.txt --constraint requirements-tests.txt flit_core numpy threadpoolctl pydantic pyyaml pytest pytest-xdist
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.installed: requirements.txt pyproject.toml .venv/.created
	@echo "Setting up .venv, which takes a minute or two the first time..."
	@$(PIP) --no-deps --no-compile --requirement requirements.txt
	@$(BIN)/python -m compileall -q -j 0 .venv/lib || true
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.tests: requirements-tests.txt .venv/.installed
	@echo "Installing test dependencies and tools into .venv..."
	@$(PIP) --no-deps --no-compile --requirement requirements-tests.txt
	@$(BIN)/python -m compileall -q -j 0 .venv/lib || true
	@touch $@

extras: setup
	@$(PIP) --constraint requirements.txt --constraint requirements-tests.txt --no-build-isolation --editable '.[remotes,mpi]'

repro: setup
	@$(BIN)/python -m pipeline.check
	@$(BIN)/python -m dvc repro

seconds minute best: setup
	@$(BIN)/python -m pipeline.check --experiment
	@$(BIN)/python -m dvc exp run $(addprefix --set-param ,$(shell grep -v '^#' recipes/$@.txt)) $(ARGUMENTS)

check: .venv/.checked
	@$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(FAST:%=tests/test_%.py)

test: .venv/.tests
	@sh tests/programs.sh
	@$(BIN)/python -m pytest --numprocesses auto --dist load --maxschedchunk 1

torture: .venv/.tests
	@KILLS=60 FUZZED=100000 $(BIN)/python -m pytest -rP -k "random_moments or thousands" tests/test_resume.py tests/test_weights.py

ui: setup
	@$(BIN)/python -m pipeline.ui --port $(UI_PORT)

register: setup
	@$(BIN)/python -m pipeline.register

sample: setup
	@$(BIN)/python -m baregpt

explore: setup
	@$(BIN)/python -m pipeline.explore

notebook: .venv/.tests
	@cd notebooks && ../$(BIN)/python -c 'import nbclient, nbformat; name = "inference_inspect.ipynb"; \
		notebook = nbclient.execute(nbformat.read(name, 4), record_timing=False); nbformat.write(notebook, name)'

shakespeare: setup
	@$(BIN)/python -m dvc get-url --force $(SHAKESPEARE) data/shakespeare.tmp \
		|| { echo "error: $(SHAKESPEARE) cannot be downloaded; download it on another machine and copy it to data/shakespeare.txt"; exit 1; }
	@$(BIN)/python -c 'import hashlib, sys; sys.exit(hashlib.sha256(open("data/shakespeare.tmp", "rb").read()).hexdigest() != "$(SHAKESPEARE_SHA256)")' \
		|| { rm data/shakespeare.tmp; echo "error: $(SHAKESPEARE) is not tiny Shakespeare (its sha256 differs)"; exit 1; }
	@mv data/shakespeare.tmp data/shakespeare.txt
	@echo 'downloaded data/shakespeare.txt; train on it with `dvc exp run -S corpus.path=data/shakespeare.txt` (with --temp or --queue, add --copy-paths data/shakespeare.txt)'

bench: setup
	@$(PIP) --requirement benchmarks/requirements.txt
	@$(BIN)/python -m benchmarks.time_to_loss
	@$(BIN)/python -m benchmarks.bench $(ARGUMENTS)

lint: .venv/.tests
	@$(BIN)/python -m ruff check
	@$(BIN)/python -m ruff format --check
	@$(BIN)/python -m mypy
	@$(BIN)/zizmor --quiet --offline --no-progress .github

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache dvc_plots docs/explore.html
	cd data && rm -rf checkpoints corpus.json text.txt vocab.json train.npy validation.npy weights.pkl \
		train_loss.csv validation_loss.csv loss.png snapshots.json samples.txt attention.png explore.html *.lock *.tmp
	rm -f data/undelivered/*lock; rmdir data/undelivered 2>/dev/null || true  # unless it has records
