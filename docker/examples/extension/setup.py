"""Builds the module `extension` from one CUDA source file."""

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CUDAExtension

setup(
    name="extension",
    version="1.0",
    py_modules=[],
    ext_modules=[CUDAExtension("extension", ["extension.cu"])],
    cmdclass={"build_ext": BuildExtension},
)
