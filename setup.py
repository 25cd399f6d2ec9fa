# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml cannot say: what is compiled of C, the BPF objects, and that one build fits every later Python."""

import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

OLDEST_PYTHON = "cp311"
"""All modules keep to the stable ABI, so the wheel of one Python fits the later ones."""
RECORD = Extension(
    "bpfence.events._record",
    ["src/bpfence/events/record.c"],
    depends=["bpf/abi.h"],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-O2", "-Wall", "-Werror"],
    py_limited_api=True,
)


class BuildWithObjects(build_py):
    """The Python files, and the BPF objects made of bpf/. An editable installation takes the objects that `make bpf` leaves in the tree."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "bpfence", "kernel", "bpfence.bpf.o").resolve()
        tool = Path(__file__).resolve().parent / "tools" / "build_bpf.py"
        if code := subprocess.run([sys.executable, str(tool), "--output", str(target)], check=False).returncode:
            raise SystemExit(code)


setup(
    ext_modules=[RECORD],
    cffi_modules=[
        "src/bpfence/kernel/build_ffi.py:ffibuilder",
        "src/bpfence/kernel/build_seccomp.py:ffibuilder",
        "src/bpfence/compiler/build_core.py:ffibuilder",
    ],
    cmdclass={"build_py": BuildWithObjects},
    options={"bdist_wheel": {"py_limited_api": OLDEST_PYTHON}},
)
