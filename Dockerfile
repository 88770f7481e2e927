# Training in a container, on GPUs (the default), TPUs or CPUs alone, as a user without privileges:
#   docker build --tag=tf-lars:gpu .
#   docker build --build-arg=ACCELERATOR=tpu --tag=tf-lars:tpu .
#   docker build --build-arg=ACCELERATOR=cpu --tag=tf-lars:cpu .
# launch/container/*.txt hold the versions and hashes of all packages (`make lock`). CUDA, cuDNN and
# NCCL are among them, so the base is a plain Python image, and the host needs only NVIDIA's driver
# and container toolkit. A digest pins the base too: --build-arg=BASE=python@sha256:...
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
ARG ACCELERATOR=gpu
# Any user can write to this HOME: a pod may run as another one, such as the owner of its volume.
ENV HOME=/tmp \
    PYTHONPATH=/opt/tf-lars \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
RUN groupadd --gid=1000 trainer \
    && useradd --uid=1000 --gid=1000 --home-dir=/tmp --no-create-home trainer
# Packages are a layer below the code, which changes more often. Wheels only: none runs code here.
COPY launch/container/${ACCELERATOR}.txt /opt/requirements.txt
RUN python -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
    --only-binary=:all: --require-hashes --requirement=/opt/requirements.txt
WORKDIR /opt/tf-lars
COPY LICENSE ./
COPY tf_lars tf_lars
COPY models models
COPY launch launch
# The code belongs to root: a process that is taken over cannot change what the next one runs.
USER 1000:1000
