# SPDX-License-Identifier: Apache-2.0
"""Work beside the loop: its result, its failure, and nobody who waits for it."""

from __future__ import annotations

import threading

import pytest

from bpfence.agent.loading import Loaded
from bpfence.agent.remake import Made, Remake
from bpfence.compiler.compile import compile_policies
from bpfence.errors import KernelError
from bpfence.policy import PolicySet
from tests.unit.waiting import readable


def done(remake: Remake) -> bool:
    return readable(remake.fileno(), 10)


def test_what_was_made_is_taken_once() -> None:
    nothing = PolicySet(())
    made = Made(Loaded(nothing, {}, []), frozenset(), Loaded(nothing, {}, []), compile_policies(nothing), ())
    remake = Remake()
    hold = threading.Event()

    def work() -> Made:
        assert hold.wait(10)
        return made

    remake.begin(work)
    assert (remake.busy, remake.take()) == (True, None)
    hold.set()
    assert done(remake)
    assert (remake.take(), remake.busy, remake.take()) == (made, False, None)
    assert remake.seconds > 0
    remake.begin(lambda: None)
    assert done(remake)
    assert (remake.take(), remake.busy) == (None, False)
    remake.close()


@pytest.mark.parametrize("error", [KernelError("no"), ZeroDivisionError("a bug")])
def test_what_goes_wrong_is_raised_where_the_result_is_taken(error: Exception) -> None:
    def work() -> Made:
        raise error

    remake = Remake()
    remake.begin(work)
    assert done(remake)
    with pytest.raises(type(error)):
        remake.take()
    assert not remake.busy
    remake.close()


def test_work_may_end_when_nobody_waits_any_more() -> None:
    remake = Remake()
    hold = threading.Event()

    def work() -> None:
        hold.wait(10)

    remake.begin(work)
    remake.close()
    hold.set()
    assert remake._thread is not None
    remake._thread.join(10)
    assert not remake._thread.is_alive()


def test_no_thread_is_a_failure_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    remake = Remake()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        remake.begin(lambda: None, reloads=True)
    assert (remake.busy, remake.reloads, done(remake)) == (True, True, True)
    with pytest.raises(KernelError, match="no thread"):
        remake.take()
    remake.begin(lambda: None)
    assert done(remake)
    assert remake.take() is None
    remake.close()
