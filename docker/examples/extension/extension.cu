// Twice each element, on the GPU.

#include <torch/extension.h>

__global__ void twice(const float* in, float* out, int64_t n) {
    int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
    if (i < n) {
        out[i] = 2.0f * in[i];
    }
}

torch::Tensor double_(const torch::Tensor& in) {
    TORCH_CHECK(in.is_cuda() && in.scalar_type() == torch::kFloat, "a CUDA tensor of floats is needed");
    auto dense = in.contiguous();
    auto out = torch::empty_like(dense);
    int64_t n = dense.numel();
    if (n > 0) {
        twice<<<(n + 255) / 256, 256>>>(dense.data_ptr<float>(), out.data_ptr<float>(), n);
    }
    return out;
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("double", &double_); }
