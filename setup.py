# SPDX-License-Identifier: Apache-2.0
"""The one thing pyproject.toml cannot say: the compiled binding of libbpf."""

from setuptools import setup

setup(cffi_modules=["src/bpfence/kernel/build_ffi.py:ffibuilder"])
