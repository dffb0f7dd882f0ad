# syntax=docker/dockerfile:1

# A CUDA extension of PyTorch. It is compiled in a stage that has the compiler and only the parts of the toolkit that
# compiling takes; the image that is shipped gets the wheel.

ARG DEVEL_IMAGE=nvidia/cuda:12.4.1-devel-ubuntu22.04
ARG BASE_IMAGE=ubuntu:22.04
ARG MLDOCTOR_IMAGE=mldoctor

FROM ${MLDOCTOR_IMAGE} AS mldoctor

FROM ${DEVEL_IMAGE} AS builder
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv python3-dev g++ ninja-build \
 && rm -rf /var/lib/apt/lists/*
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:${PATH}
RUN python3 -m venv /opt/venv
COPY requirements.txt /tmp/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --requirement /tmp/requirements.txt setuptools==80.9.0 wheel==0.45.1
# Machine code for the GPUs that it will meet, and PTX of the last for those that are still to come.
ARG TORCH_CUDA_ARCH_LIST="8.0;9.0+PTX"
ENV TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST} MAX_JOBS=4
COPY extension/ /src/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-build-isolation --no-deps --wheel-dir /wheels /src && pip install --no-deps /wheels/*.whl

FROM ${BASE_IMAGE} AS prod
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home app
COPY --from=builder /opt/venv /opt/venv
COPY --from=mldoctor / /usr/local/bin/
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:${PATH} HOME=/home/app USER=app
USER 10001
# With the GPUs and the driver of the cluster, the build also stops where the extension has no code for one of them.
ARG GPUS="A100,H100"
ARG DRIVER="535.104.05"
RUN mldoctor check --image --gpu "${GPUS}" --driver "${DRIVER}" torch extension
HEALTHCHECK --interval=10s --timeout=2s --start-period=30s CMD ["mldoctor", "health"]
ENTRYPOINT ["mldoctor", "exec", "--"]
CMD ["python3", "-c", "import torch, extension; print(extension.double(torch.ones(4, device='cuda')))"]
