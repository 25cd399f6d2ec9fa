# SPDX-License-Identifier: Apache-2.0
"""automata.c, minimise.c, rows.c and decide.c in, the extension module bpfence.compiler._core out.

Run by setuptools (cffi_modules in setup.py), or by hand for a build in place: `python src/bpfence/compiler/build_core.py`.
It links no library. Where it is not built, `determinise`, `rows` and `diagram` do the same work in Python.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SOURCES = ("automata.c", "minimise.c", "rows.c", "decide.c")  # one after the other, as one file

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

struct bpfence_dimension { uint8_t joined, moved; };
struct bpfence_rule { int32_t severity; uint32_t confirmed; };
struct bpfence_group {
    uint32_t n_nodes, n_leaves, n_rows;
    const uint32_t *node_first, *nodes; const uint32_t *leaf_first, *leaves; const uint32_t *row_first, *rows;
    int32_t subject; uint64_t edges;
};
struct bpfence_diagrams;
struct bpfence_diagrams *bpfence_diagrams_new(uint32_t n_dimensions, const struct bpfence_dimension *dimensions, uint32_t subjects,
                                              uint32_t n_rules, const struct bpfence_rule *rules, uint32_t n_events, uint64_t budget,
                                              int (*ask)(void *, int, uint32_t), void *whom);
void bpfence_diagrams_free(struct bpfence_diagrams *diagrams);
int bpfence_diagrams_mask(struct bpfence_diagrams *diagrams, const uint64_t *words);
int bpfence_diagrams_clause(struct bpfence_diagrams *diagrams, uint32_t rule, uint32_t first, uint32_t mask);
int bpfence_diagrams_bare(struct bpfence_diagrams *diagrams, uint32_t number, uint32_t bare);
int bpfence_diagrams_parts(struct bpfence_diagrams *diagrams, uint32_t number, uint32_t base, uint32_t some, uint32_t n,
                           const uint32_t *values, const uint32_t *ends, const uint32_t *classes);
int bpfence_diagrams_build(struct bpfence_diagrams *diagrams, const uint32_t *clauses, uint32_t n);
void bpfence_diagrams_made(const struct bpfence_diagrams *diagrams, struct bpfence_group *group);
extern "Python" int diagrams_ask(void *whom, int what, uint32_t clause);

#define NONE ...
#define ASK_PARTS ...
#define ASK_BARE ...
#define EVENTS ...
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
