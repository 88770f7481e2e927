# Everything runs in .venv, which the first target that needs it creates with pip alone.
PYTHON ?= python3
# tensorflow-addons ends with Python 3.11.
PYTHON311 ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 0
# Two files of tests at a time: much of a test is one thread of Python. tests/conftest.py orders them.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=30

.PHONY: help setup setup-compile setup-engines train test test-all test-exhaustive test-addons test-tpu test-engines lint bench bench-optimizer bench-input bench-loop lock clean

help:
	@echo "make setup     create $(VENV) with everything that training and the tests need"
	@echo "make setup-compile  create .venv-compile too, for launch.compile_for"
	@echo "make setup-engines  add PySpark to $(VENV), for its test"
	@echo "make train     train on handwritten digits with two workers (SEED=$(SEED))"
	@echo "make test      run the tests"
	@echo "make test-all  the slow ones too, as CI does"
	@echo "make test-exhaustive  what CI leaves out: long sweeps and runs of benchmarks"
	@echo "make test-addons      the tests of Keras 2 and tensorflow-addons, in .venv-addons"
	@echo "make test-tpu         the step's operations, with TensorFlow for TPUs, in .venv-tpu"
	@echo "make test-engines     the manifests of other engines, by their publishers' models"
	@echo "make lint      ruff, mypy, shellcheck and the contract of imports"
	@echo "make bench     run the benchmarks, beside the peers that $(VENV) has"
	@echo "make bench-optimizer  beside all peers of the optimizer, in .venv-bench"
	@echo "make bench-input      beside all peers of the input pipeline, in .venv-bench-input"
	@echo "make bench-loop       the training loop beside Keras's and torch's: time, scaling and memory"
	@echo "make lock      the newest versions for the container image, into launch/container/"
	@echo "make clean     remove $(VENV) and its like, data/digits and runs/"

setup: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[demo,keras-cv,launch,test]"
	@touch $@

# Private API of JAX is used there: pinned, and apart from TensorFlow.
setup-compile: setup .venv-compile/installed

.venv-compile/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv-compile
	.venv-compile/bin/python -m pip install --quiet --disable-pip-version-check \
		jax==0.10.2 jaxlib==0.10.2 jax-cuda12-plugin==0.10.2 jax-cuda12-pjrt==0.10.2 \
		nvidia-cuda-nvcc-cu12==12.9.86 libtpu==0.0.51 numpy==2.4.6 absl-py google-crc32c
	@touch $@

train: setup data/digits/dataset.json
	$(BIN)/python -m launch.local --flagfile=launch/recipes/digits.flags \
		--seed=$(SEED) --model_dir=runs/digits-seed-$(SEED)

data/digits/dataset.json: | setup
	$(BIN)/python -m launch.prepare_imagenet --dataset=digits --output_dir=data/digits

test: setup
	$(PYTEST) -m "not slow and not exhaustive"

test-all: setup
	$(PYTEST) -m "not exhaustive"

test-exhaustive: setup
	$(PYTEST) -m exhaustive

test-addons: .venv-addons/installed
	.venv-addons/bin/python -m pytest --durations=30 tests/addons

.venv-addons/installed: setup.cfg pyproject.toml
	$(PYTHON311) -m venv .venv-addons
	.venv-addons/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[addons]" \
		pytest pytest-timeout
	@touch $@

# TensorFlow for TPUs knows which operations they have; it needs none of them.
test-tpu: .venv-tpu/installed
	TPU_LOAD_LIBRARY=0 .venv-tpu/bin/python -m pytest tests/xla/test_tpu_operations.py

.venv-tpu/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv-tpu
	launch/tpu_vm/install.sh .venv-tpu/bin/python
	.venv-tpu/bin/python -m pip install --quiet --disable-pip-version-check pytest pytest-timeout
	@touch $@

# What publishers offer to check their manifests with; none of it is needed to train.
test-engines: .venv-engines/installed
	.venv-engines/bin/python -m pytest --noconftest tests/examples/test_engine_files.py

.venv-engines/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv-engines
	.venv-engines/bin/python -m pip install --quiet --disable-pip-version-check skypilot==0.14.1 \
		kubeflow-training==1.9.4 kubeflow-trainer-api==2.3.0 botocore==1.44.8 \
		google-cloud-aiplatform==2.7.0 pytest pytest-timeout
	@touch $@

# Engines that start workers, for their tests.
setup-engines: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pyspark==4.3.0

bench: setup
	$(BIN)/python -m benchmarks.optimizer_step --output_dir=runs/benchmarks

bench-optimizer: .venv-bench/installed
	.venv-bench/bin/python -m benchmarks.optimizer_step --all_forms

bench-loop: .venv-bench/installed
	.venv-bench/bin/python -m benchmarks.loop_overhead
	.venv-bench/bin/python -m benchmarks.batch_ramp
	.venv-bench/bin/python -m benchmarks.weak_scaling
	.venv-bench/bin/python -m benchmarks.mixed_precision
	.venv-bench/bin/python -m benchmarks.deterministic
	.venv-bench/bin/python -m benchmarks.step_memory

# tf-models-official asks for packages that it needs nowhere near its optimizer.
.venv-bench/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --editable . \
		tf_keras==2.21.0 optax==0.2.8 jax==0.10.2 torch==2.13.0 gin-config pyyaml
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		tf-models-official==2.20.0 timm==1.0.31
	@touch $@

bench-input: .venv-bench-input/installed
	.venv-bench-input/bin/python -m benchmarks.input_pipeline

# What tf-models-official needs to read ImageNet, without the rest that it asks for.
.venv-bench-input/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv-bench-input
	.venv-bench-input/bin/python -m pip install --quiet --disable-pip-version-check --editable . \
		tf_keras==2.21.0 tensorflow-datasets==4.9.10 gin-config pyyaml scipy pycocotools \
		nvidia-dali-cuda120==2.4.0 torch==2.13.0 pillow==13.0.0 \
		simplejpeg==1.9.0 opencv-python-headless==5.0.0.93
	.venv-bench-input/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		tf-models-official==2.20.0
	@touch $@

# Versions and hashes of what the Dockerfile installs, for its Python.
LOCK = .venv-lock/bin/uv pip compile --quiet --upgrade --generate-hashes --no-annotate \
	--python-version=3.11 --python-platform=x86_64-manylinux_2_31 --custom-compile-command="make lock"

lock: .venv-lock/installed
	$(LOCK) --output-file=launch/container/cpu.txt setup.cfg
	$(LOCK) --output-file=launch/container/gpu.txt --extra=gpu setup.cfg
	launch/tpu_vm/install.sh $(PYTHON) --list | $(LOCK) --output-file=launch/container/tpu.txt -

.venv-lock/installed:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	git ls-files '*.sh' '*.sbatch' .ci/run | xargs $(BIN)/shellcheck

clean:
	rm -rf $(VENV) .venv-compile .venv-addons .venv-tpu .venv-engines .venv-lock .venv-bench .venv-bench-input data/digits runs
