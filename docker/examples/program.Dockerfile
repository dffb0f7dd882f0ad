# syntax=docker/dockerfile:1

# A CUDA program in C++, with only the libraries that it loads. Whoever copies libraries by hand forgets those that are
# opened by name; the check finds them.

ARG DEVEL_IMAGE=nvidia/cuda:12.4.1-devel-ubuntu22.04
ARG BASE_IMAGE=ubuntu:22.04
ARG MLDOCTOR_IMAGE=mldoctor

FROM ${MLDOCTOR_IMAGE} AS mldoctor

FROM ${DEVEL_IMAGE} AS builder
WORKDIR /src
COPY program/ ./
ARG CUDA_ARCH="-gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=[sm_90,compute_90]"
RUN nvcc -O2 --cudart shared ${CUDA_ARCH} -o /server server.cu -lcublas

FROM ${BASE_IMAGE} AS prod
COPY --from=builder /server /app/server
# cuBLAS needs cuBLASLt. The links come along, for the loader looks for the names that they have.
COPY --from=builder /usr/local/cuda/lib64/libcudart.so.* \
                    /usr/local/cuda/lib64/libcublas.so.* \
                    /usr/local/cuda/lib64/libcublasLt.so.* /usr/local/lib/
COPY --from=mldoctor / /usr/local/bin/
RUN ldconfig && useradd --uid 10001 app
USER 10001
RUN ["mldoctor", "check", "--image", "/app/server"]
HEALTHCHECK --interval=10s --timeout=2s --start-period=10s CMD ["mldoctor", "health"]
ENTRYPOINT ["mldoctor", "exec", "--"]
CMD ["/app/server"]
