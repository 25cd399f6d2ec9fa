"""seccomp.c as the compiled module shows it to Python. Only bpfence.kernel.seccomp imports it.

A negative errno is a failure. Every call releases the interpreter lock.
"""

from typing import Any

class CData:
    """A C value. Structure members are attributes; arrays and pointers are indexed."""

    def __getattr__(self, name: str) -> Any: ...
    def __setattr__(self, name: str, value: object) -> None: ...
    def __getitem__(self, index: int) -> Any: ...
    def __setitem__(self, index: int, value: object) -> None: ...
    def __bool__(self) -> bool: ...

class _FFI:
    NULL: CData
    def new(self, ctype: str, init: object = ...) -> CData: ...

class _Lib:
    SECCOMP_FILTER_FLAG_TSYNC: int
    SECCOMP_FILTER_FLAG_LOG: int
    SECCOMP_FILTER_FLAG_SPEC_ALLOW: int
    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: int
    BPF_MAXINSNS: int
    STAGE_NONE: int
    STAGE_HELD: int
    STAGE_CGROUP: int
    STAGE_NO_NEW_PRIVS: int
    STAGE_FILTER: int
    STAGE_EXEC: int

    def bpfence_launch(self, launch: CData, result: CData, pidfd: CData) -> int:
        """Starts a command; its pid. `result` gets the page that the child reports its progress on."""
    def bpfence_progress_stage(self, progress: CData, error: CData) -> int:
        """What the child failed at, and with which errno; STAGE_NONE while it has not failed."""
    def bpfence_progress_listener(self, progress: CData) -> int:
        """The listener's descriptor in this process, -1 before there is one."""
    def bpfence_progress_held(self, progress: CData) -> int:
        """1 once a held child has prepared everything."""
    def bpfence_progress_release(self, progress: CData) -> None:
        """Lets a held child go on to exec."""
    def bpfence_progress_free(self, progress: CData) -> None: ...
    def bpfence_apply(self, filters: CData, n: int) -> int:
        """Puts filters on this process."""
    def bpfence_action_available(self, action: int) -> int:
        """0 where the kernel knows the action."""
    def bpfence_flags_available(self, wanted: int) -> int:
        """Which of these flags the kernel knows."""
    def bpfence_notification_receive(self, listener: int, notification: CData) -> int:
        """Waits for a notification."""
    def bpfence_notification_answer(self, listener: int, id: int, error: int, proceed: bool) -> int: ...
    def bpfence_notification_valid(self, listener: int, id: int) -> int:
        """0 while the call still waits."""

ffi: _FFI
lib: _Lib
