# syntax=docker/dockerfile:1

# The smallest image that still runs the workload: its smoke test is recorded in the fat stage, and only what it used,
# and what the required capabilities load, is put into an empty image.

# What pytorch.Dockerfile makes.
ARG FAT_IMAGE=app
ARG MLDOCTOR_IMAGE=mldoctor

FROM ${MLDOCTOR_IMAGE} AS mldoctor

FROM ${FAT_IMAGE} AS builder
COPY --from=mldoctor / /usr/local/bin/
WORKDIR /app
# The owners of files are kept, which takes root; the image that is shipped has a user again.
# hadolint ignore=DL3002
USER 0
RUN mldoctor record -o /tmp/profile.json -- python3 smoke.py --once \
 && mldoctor slim --mode recorded --profile /tmp/profile.json --copy-to /slim torch

FROM scratch
COPY --from=builder /slim /
COPY --from=mldoctor / /usr/local/bin/
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin
USER 10001
HEALTHCHECK --interval=10s --timeout=2s --start-period=30s CMD ["mldoctor", "health", "torch"]
ENTRYPOINT ["mldoctor", "exec", "torch", "--"]
CMD ["python3", "/app/smoke.py"]
