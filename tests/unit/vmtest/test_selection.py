"""Which kernel tests run on which kernels, and what the matrix says of those that ran nowhere."""

from __future__ import annotations

import importlib.util
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import BOOTS, Guest, MatrixItem
from tests.kernel.selection import begins, expected, load_table, narrowed_to, runs_on, select
from vmtest.kernels import KERNELS, Kernel, kernel_named

ROOT = Path(__file__).resolve().parent.parent.parent.parent
NAMES = {kernel.name for kernel in KERNELS}
PLAIN = kernel_named("6.12")
A, B, ONE, TWO = "tests/kernel/test_a.py", "tests/kernel/test_b.py", "tests/kernel/test_a.py::one", "tests/kernel/test_a.py::two[x-1]"


def row(*only: str) -> Kernel:
    return Kernel("6.12-other", "6.12", (), "", (), (), "", only)


@pytest.mark.parametrize(
    ("nodeid", "prefix", "expected"),
    [
        (ONE, A, True),
        (ONE, ONE, True),
        (TWO, "tests/kernel/test_a.py::two", True),
        (TWO, TWO, True),
        (ONE, "tests/kernel/test_a.py::on", False),
        (ONE, B, False),
        ("tests/kernel/test_ab.py::one", "tests/kernel/test_a", False),
        (TWO, "tests/kernel/test_a.py::two[*-1]", True),
        (TWO, "tests/kernel/test_a.py::two[*-2]", False),
        (TWO, "tests/kernel/test_a.py::two[x-*", True),
        (ONE, "tests/kernel/test_a.py::two[*", False),
        ("tests/kernel/testXa.py", "tests/kernel/test.a.py", False),
    ],
)
def test_beginnings_end_where_a_name_ends(nodeid: str, prefix: str, expected: bool) -> None:
    assert begins(nodeid, prefix) is expected


def test_the_longest_beginning_decides() -> None:
    table = {A: ("5.10",), ONE: ("6.12", "7.3")}
    assert narrowed_to(ONE, table) == ("6.12", "7.3")
    assert narrowed_to(TWO, table) == ("5.10",)
    assert narrowed_to(f"{B}::one", table) is None


def test_a_row_runs_what_is_not_narrowed_to_others() -> None:
    table = {ONE: ("5.10",)}
    assert select([ONE, TWO, f"{B}::one"], PLAIN, table) == [TWO, f"{B}::one"]


def test_a_row_with_only_runs_that_and_nothing_else() -> None:
    """The table of tests does not take away what the row is there for."""
    kernel = row(A)
    assert runs_on(ONE, kernel, {A: ("5.10",)})
    assert not runs_on(f"{B}::one", kernel, {})


def test_both_tables_name_tests_and_kernels_that_are_there() -> None:
    table = load_table()
    assert {name for names in table.values() for name in names} <= NAMES
    for prefix in (*table, *(prefix for kernel in KERNELS for prefix in kernel.only)):
        file, _, function = prefix.partition("::")
        text = (ROOT / file).read_text()
        assert not function or re.search(rf"^def {re.escape(function.partition('[')[0])}\(", text, re.MULTILINE), prefix


def test_the_table_of_features_names_kernels_that_are_there() -> None:
    from tests.kernel.conftest import FEATURES

    assert {name for names in FEATURES.values() for name in names} <= NAMES


def report(when: str, outcome: str, **more: Any) -> SimpleNamespace:
    return SimpleNamespace(when=when, skipped=outcome == "skipped", longrepr=more.pop("why", ""), **more)


@pytest.mark.parametrize(
    ("reports", "ran"),
    [
        ([report("setup", "passed"), report("call", "passed")], True),
        ([report("setup", "passed"), report("call", "failed")], True),
        ([report("setup", "skipped", why="this kernel lacks: x")], False),
        ([report("setup", "skipped", why="no shared/corpora/falco/falco_rules.yaml")], True),
        ([report("call", "skipped", wasxfail="as said")], True),
    ],
)
def test_the_matrix_names_what_no_kernel_ran(reports: list[SimpleNamespace], ran: bool) -> None:
    guests = [SimpleNamespace(by_test={}), SimpleNamespace(by_test={ONE: reports, TWO: [report("call", "passed")]})]
    matrix: Any = SimpleNamespace(guests=guests, nodeids=[ONE, TWO])
    assert MatrixItem.never_ran(matrix) == ([] if ran else [ONE])


class Booted(Guest):
    """Boots that finish these tests, one after another, and end with these codes."""

    def __init__(self, folder: Path, boots: list[tuple[list[str], int]]) -> None:
        super().__init__("6.12", None, threading.Semaphore())  # type: ignore[arg-type] # without reports there is nothing to ask it
        self.folder, self.boots, self.asked = folder, boots, list[list[str]]()

    def _boot(self) -> None:
        self.asked.append(self.nodeids)
        finished, self.code = self.boots[len(self.asked) - 1]
        (self.folder / "console.log").write_text(f"boot {len(self.asked)}")
        self.finished.update(finished)


@pytest.mark.parametrize(
    ("boots", "asked"),
    [
        ([([ONE], 123), ([TWO], 0)], [[ONE, TWO], [TWO]]),
        ([([ONE], 125)], [[ONE, TWO]]),
        ([([ONE, TWO], 123)], [[ONE, TWO]]),
        ([([], 123)] * BOOTS, [[ONE, TWO]] * BOOTS),
    ],
)
def test_what_the_emulator_ended_goes_on_in_another_boot(
    tmp_path: Path, boots: list[tuple[list[str], int]], asked: list[list[str]]
) -> None:
    guest = Booted(tmp_path, boots)
    guest.nodeids = [ONE, TWO]
    guest.start()
    assert guest.ended.wait(30)
    assert guest.asked == asked
    assert len(guest.told) == len(asked) - 1
    assert [(tmp_path / f"console-{n}.log").read_text() for n in range(1, len(asked))] == [f"boot {n}" for n in range(1, len(asked))]


def test_the_matrix_names_what_was_selected_for_no_kernel() -> None:
    """A test that no two tables agree on runs nowhere, and that is told."""
    matrix: Any = SimpleNamespace(guests=[SimpleNamespace(by_test={ONE: [report("call", "passed")]})], nodeids=[ONE, f"{B}::one"])
    assert MatrixItem.never_ran(matrix) == [f"{B}::one"]


def test_what_the_table_names_no_kernel_for_is_run_by_hand() -> None:
    table: dict[str, tuple[str, ...]] = {A: (), ONE: ("5.10",)}
    assert not runs_on(TWO, PLAIN, table)
    assert expected([ONE, TWO, f"{B}::one"], table) == [ONE, f"{B}::one"]


def test_kernels_are_described_once() -> None:
    """Rows of one image differ in their command line and in what they are there for."""
    assert len({(kernel.image, kernel.cmdline) for kernel in KERNELS}) == len(KERNELS)


def test_what_tests_start_need_not_be_compiled_anew() -> None:
    """Whatever PYTHONDONTWRITEBYTECODE says of the host: in an emulated machine the package's compilation takes a quarter of a minute."""
    sources = [path for path in (ROOT / "src").rglob("*.py") if path.stat().st_size]
    missing = [path for path in sources if not Path(importlib.util.cache_from_source(str(path))).exists()]
    assert sources
    assert not missing
