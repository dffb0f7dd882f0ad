// Stands for a server: one matrix product on the GPU, then it waits to be told to stop.

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <vector>

static void check(bool is_good, const char* what) {
    if (!is_good) {
        std::fprintf(stderr, "%s failed\n", what);
        std::exit(1);
    }
}

int main() {
    const int n = 64;
    std::vector<float> ones(n * n, 1.0f), product(n * n);
    float *a = nullptr, *c = nullptr;
    size_t bytes = ones.size() * sizeof(float);
    check(cudaMalloc(&a, bytes) == cudaSuccess && cudaMalloc(&c, bytes) == cudaSuccess, "cudaMalloc");
    check(cudaMemcpy(a, ones.data(), bytes, cudaMemcpyHostToDevice) == cudaSuccess, "cudaMemcpy");
    cublasHandle_t handle;
    check(cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS, "cublasCreate");
    const float one = 1.0f, zero = 0.0f;
    check(cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, n, n, n, &one, a, n, a, n, &zero, c, n) == CUBLAS_STATUS_SUCCESS,
          "cublasSgemm");
    check(cudaMemcpy(product.data(), c, bytes, cudaMemcpyDeviceToHost) == cudaSuccess, "cudaMemcpy");
    check(product[0] == n, "the product");
    std::puts("ready");
    std::fflush(stdout);
    std::signal(SIGTERM, [](int) { _exit(0); });
    pause();
}
