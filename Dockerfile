# syntax=docker/dockerfile:1
# Training in a container, on GPUs (the default) or TPUs:
#   docker build --target=gpu --tag=tf-lars:gpu .
#   docker build --target=tpu --tag=tf-lars:tpu .
# CUDA, cuDNN and NCCL come from PyPI in the versions that TensorFlow's wheel specifies (setup.cfg,
# extra gpu), so the base is a plain Python image: TensorFlow's own images exist for some releases
# only, and the host needs only NVIDIA's driver and container toolkit.
ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /opt/tf-lars
COPY pyproject.toml setup.cfg README.md ./
COPY tf_lars tf_lars
COPY models models
COPY launch launch

FROM base AS tpu
RUN launch/tpu_vm/install.sh python

FROM base AS gpu
RUN pip install --editable ".[gpu]"
