# SPDX-License-Identifier: Apache-2.0
"""The one thing pyproject.toml cannot say: the compiled bindings of libbpf and of seccomp(2)."""

from setuptools import setup

setup(cffi_modules=["src/bpfence/kernel/build_ffi.py:ffibuilder", "src/bpfence/kernel/build_seccomp.py:ffibuilder"])
