"""What automata.c, minimise.c, rows.c and decide.c show to Python. Only bpfence.compiler.core and decided import it.

A negative errno is a failure: -EINVAL, -E2BIG, -ENOMEM. Every call releases the interpreter lock.
"""

from collections.abc import Callable
from typing import Any, TypeVar

_Ask = TypeVar("_Ask", bound=Callable[[CData, int, int], int])

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
    def new_handle(self, value: object) -> CData: ...
    def from_handle(self, handle: CData) -> Any: ...
    def unpack(self, data: CData, length: int) -> list[int]: ...
    def release(self, data: CData) -> None: ...
    def def_extern(self, *, error: int) -> Callable[[_Ask], _Ask]: ...

class _Lib:
    E2BIG: int
    ENOMEM: int
    NONE: int
    ASK_PARTS: int
    ASK_BARE: int
    EVENTS: int
    diagrams_ask: CData

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
    def bpfence_diagrams_new(
        self,
        n_dimensions: int,
        dimensions: CData,
        subjects: int,
        n_rules: int,
        rules: CData,
        n_events: int,
        budget: int,
        ask: CData,
        whom: CData,
    ) -> CData:
        """`ask`: called with `whom` while diagrams are built, for what becomes of a clause (ASK_*); 0, or what the build fails with."""
    def bpfence_diagrams_free(self, diagrams: CData) -> None: ...
    def bpfence_diagrams_mask(self, diagrams: CData, words: CData) -> int:
        """One more set of events: a bit for each of EVENTS."""
    def bpfence_diagrams_clause(self, diagrams: CData, rule: int, first: int, mask: int) -> int:
        """One more clause, numbered as they come. `mask`: the number of its set of events."""
    def bpfence_diagrams_bare(self, diagrams: CData, number: int, bare: int) -> int: ...
    def bpfence_diagrams_parts(
        self, diagrams: CData, number: int, base: int, some: int, n: int, values: CData, ends: CData, classes: CData
    ) -> int:
        """What becomes of a clause: NONE or a clause. Value i in classes[ends[i - 1] .. ends[i])."""
    def bpfence_diagrams_build(self, diagrams: CData, clauses: CData, n: int) -> int: ...
    def bpfence_diagrams_made(self, diagrams: CData, group: CData) -> None:
        """What was built; it lives as long as the diagrams."""

ffi: _FFI
lib: _Lib
