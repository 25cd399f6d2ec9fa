# SPDX-License-Identifier: Apache-2.0
"""automata.c, minimise.c and rows.c in, the extension module bpfence.compiler._core out.

Run by setuptools (cffi_modules in setup.py), or by hand for a build in place: `python src/bpfence/compiler/build_core.py`.
It links no library. Where it is not built, `determinise` and `rows` do the same work in Python.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SOURCES = ("automata.c", "minimise.c", "rows.c")  # one after the other, as one file

DECLARATIONS = """
struct bpfence_automaton {
    uint32_t n_states, n_exceptions, n_classes, n_members;
    uint32_t *defaults; uint32_t *first; uint8_t *bytes; uint32_t *targets; uint32_t *accept; uint32_t *class_first; uint32_t *members;
};
int bpfence_automaton_build(const uint8_t *text, const uint32_t *ends, uint32_t n, uint32_t states, uint64_t room,
                            int first, struct bpfence_automaton **result);
void bpfence_automaton_free(struct bpfence_automaton *automaton);

struct bpfence_comb;
struct bpfence_comb *bpfence_comb_new(void);
void bpfence_comb_free(struct bpfence_comb *comb);
int bpfence_comb_add(struct bpfence_comb *comb, uint32_t n, const uint32_t *defaults, const uint32_t *first, const uint8_t *bytes,
                     const uint32_t *targets, uint32_t n_exceptions, const uint32_t *accept, uint8_t *table);
uint32_t bpfence_comb_blocks(const struct bpfence_comb *comb);
int bpfence_comb_write(const struct bpfence_comb *comb, uint32_t *words, uint64_t n_words, uint32_t base, uint32_t *starts);

#define E2BIG ...
#define ENOMEM ...
"""


def make_builder() -> FFI:
    """The cffi builder."""
    builder = FFI()
    builder.cdef(DECLARATIONS)
    source = "".join((HERE / name).read_text(encoding="utf-8") for name in SOURCES)
    builder.set_source("bpfence.compiler._core", source, extra_compile_args=["-O2", "-Wall", "-Wno-unused-function"])
    return builder


ffibuilder = make_builder()

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        built = Path(ffibuilder.compile(tmpdir=folder))
        # The name setuptools gives it: cffi's modules keep to the stable ABI. Two names side by side would hide the newer one.
        partial = HERE / "_core.partial"
        shutil.copyfile(built, partial)
        partial.replace(HERE / "_core.abi3.so")
