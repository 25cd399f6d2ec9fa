# SPDX-License-Identifier: Apache-2.0
"""seccomp.c and the kernel's headers in, the extension module bpfence.kernel._seccomp out.

Run by setuptools (cffi_modules in setup.py), or by hand for a build in place: `python src/bpfence/kernel/build_seccomp.py`.
A module of its own: it links no library, so commands can be confined where libbpf is not installed.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent

DECLARATIONS = """
struct bpfence_progress;
struct bpfence_filter { const char *instructions; unsigned int count; unsigned int flags; };
struct bpfence_launch {
    const struct bpfence_filter *filters; unsigned int n_filters; int listener; int hold; int cgroup;
    char *const *paths; char *const *argv; char *const *envp;
};
int bpfence_launch(const struct bpfence_launch *launch, struct bpfence_progress **result, int *pidfd);
int bpfence_progress_stage(const struct bpfence_progress *progress, int *error);
int bpfence_progress_listener(const struct bpfence_progress *progress);
int bpfence_progress_held(const struct bpfence_progress *progress);
void bpfence_progress_release(struct bpfence_progress *progress);
void bpfence_progress_free(struct bpfence_progress *progress);
int bpfence_apply(const struct bpfence_filter *filters, unsigned int n);
int bpfence_action_available(unsigned int action);
unsigned int bpfence_flags_available(unsigned int wanted);

struct seccomp_data { int nr; uint32_t arch; unsigned long long instruction_pointer; unsigned long long args[6]; };
struct seccomp_notif { unsigned long long id; uint32_t pid; uint32_t flags; struct seccomp_data data; ...; };
int bpfence_notification_receive(int listener, struct seccomp_notif *notification);
int bpfence_notification_answer(int listener, unsigned long long id, int error, int proceed);
int bpfence_notification_valid(int listener, unsigned long long id);

#define SECCOMP_FILTER_FLAG_TSYNC ...
#define SECCOMP_FILTER_FLAG_LOG ...
#define SECCOMP_FILTER_FLAG_SPEC_ALLOW ...
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV ...
#define BPF_MAXINSNS ...
static const int STAGE_NONE, STAGE_HELD, STAGE_CGROUP, STAGE_NO_NEW_PRIVS, STAGE_FILTER, STAGE_EXEC;
"""


def make_builder() -> FFI:
    """The cffi builder."""
    builder = FFI()
    builder.cdef(DECLARATIONS)
    source = (HERE / "seccomp.c").read_text(encoding="utf-8")
    builder.set_source("bpfence.kernel._seccomp", source, extra_compile_args=["-O2", "-Wall", "-Wno-unused-function"])
    return builder


ffibuilder = make_builder()

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        built = Path(ffibuilder.compile(tmpdir=folder))
        # The name setuptools gives it: cffi's modules keep to the stable ABI. Two names side by side would hide the newer one.
        partial = HERE / "_seccomp.partial"
        shutil.copyfile(built, partial)
        partial.replace(HERE / "_seccomp.abi3.so")
