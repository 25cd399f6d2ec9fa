"""automata.c and rows.c as the compiled module shows them to Python. Only bpfence.compiler.core imports it.

A negative errno is a failure: -EINVAL, -E2BIG, -ENOMEM. Every call releases the interpreter lock.
"""

from typing import Any

class CData:
    """A C value. Structure members are attributes; arrays and pointers are indexed."""

    def __getattr__(self, name: str) -> Any: ...
    def __getitem__(self, index: int) -> Any: ...
    def __bool__(self) -> bool: ...

class _FFI:
    def new(self, ctype: str, init: object = ...) -> CData: ...
    def gc(self, data: CData, destructor: object) -> CData: ...
    def buffer(self, data: object, size: int = ...) -> bytes: ...
    def from_buffer(self, ctype: str, data: object) -> CData: ...

class _Lib:
    E2BIG: int
    ENOMEM: int

    def bpfence_automaton_build(self, text: bytes, ends: CData, n: int, states: int, room: int, first: bool, result: CData) -> int:
        """The minimised automaton of `n` programs, pattern i ending at text[ends[i]]. `states`: the most before minimisation, 0: by the
        patterns; `room`: the most members that their sets have together; `first`: see `determinise.build`.
        """
    def bpfence_automaton_free(self, automaton: CData) -> None: ...
    def bpfence_comb_new(self) -> CData: ...
    def bpfence_comb_free(self, comb: CData) -> None: ...
    def bpfence_comb_add(
        self,
        comb: CData,
        n: int,
        defaults: CData,
        first: CData,
        bytes: bytes,
        targets: CData,
        n_exceptions: int,
        accept: CData,
        table: CData,
    ) -> int:
        """Places the rows of an automaton behind those that were added before. `table`: its 256 byte classes."""
    def bpfence_comb_blocks(self, comb: CData) -> int: ...
    def bpfence_comb_write(self, comb: CData, words: CData, n_words: int, base: int, starts: CData) -> int:
        """Writes all blocks to `words`, of which `base` is the first one's ref. `starts`: by automaton, the ref of its start state."""

ffi: _FFI
lib: _Lib
