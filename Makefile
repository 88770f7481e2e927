# Everything runs in .venv, which the first target that needs it creates with pip alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 0

.PHONY: help setup train test test-all lint bench clean

help:
	@echo "make setup     create $(VENV) with everything that training and the tests need"
	@echo "make train     train on handwritten digits with two workers (SEED=$(SEED))"
	@echo "make test      run the tests          make test-all  run the slow ones too"
	@echo "make lint      ruff and mypy          make bench     run the benchmarks"
	@echo "make clean     remove $(VENV), data/digits and runs/"

setup: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[demo,test]"
	@touch $@

train: setup data/digits/dataset.json
	$(BIN)/python -m launch.local --flagfile=launch/recipes/digits.flags \
		--seed=$(SEED) --model_dir=runs/digits-seed-$(SEED)

data/digits/dataset.json: | setup
	$(BIN)/python -m launch.prepare_imagenet --dataset=digits --output_dir=data/digits

test: setup
	$(BIN)/python -m pytest -m "not slow"

test-all: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) data/digits runs
