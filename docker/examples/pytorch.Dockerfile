# syntax=docker/dockerfile:1

# PyTorch from wheels on a plain base image. The wheels bring CUDA, the node brings the driver, so neither a CUDA base
# image nor a compiler is needed to run.
#
#   docker build -f pytorch.Dockerfile -t app .                     the image that is shipped
#   docker build -f pytorch.Dockerfile --target dev -t app:dev .    the same with tools

ARG BASE_IMAGE=python:3.12-slim-bookworm
ARG MLDOCTOR_IMAGE=mldoctor

FROM ${MLDOCTOR_IMAGE} AS mldoctor

# The virtual environment is made where it will be used, with the interpreter that will use it.
FROM ${BASE_IMAGE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:${PATH}
RUN python3 -m venv /opt/venv
# The cache lives outside of the image. A private index is read from a secret, which no layer keeps:
#   docker build --secret id=pip,src=$HOME/.config/pip/pip.conf …
COPY requirements.txt /tmp/
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --requirement /tmp/requirements.txt

FROM ${BASE_IMAGE} AS runtime
COPY --from=builder /opt/venv /opt/venv
COPY --from=mldoctor / /usr/local/bin/
# Caches of compilers and models have to be somewhere that the user may write to, also where the root is read-only.
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:${PATH} \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/home/app USER=app XDG_CACHE_HOME=/tmp/cache TRITON_CACHE_DIR=/tmp/cache/triton
RUN groupadd --gid 10001 app && useradd --uid 10001 --gid app --create-home app
WORKDIR /app

FROM runtime AS dev
# Debian keeps one version of each package: a pinned one is gone with the next update.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc g++ libc6-dev git \
 && rm -rf /var/lib/apt/lists/*
USER 10001:10001
CMD ["bash"]

FROM runtime AS prod
COPY smoke.py /app/
USER 10001:10001
# The build stops here with the reason if something that the workload needs was left behind.
ENV MLDOCTOR_WORKLOAD=torch
ARG REQUIRE=torch.conv,torch.linalg
RUN mldoctor check --image --require "${REQUIRE}"
HEALTHCHECK --interval=10s --timeout=2s --start-period=30s --retries=3 CMD ["mldoctor", "health"]
ENTRYPOINT ["mldoctor", "exec", "--"]
CMD ["python3", "/app/smoke.py"]
