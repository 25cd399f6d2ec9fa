# SPDX-License-Identifier: Apache-2.0
"""Signals to select on."""

from __future__ import annotations

import signal

from bpfence.host.signals import Signals


def test_signals_are_taken_once_and_in_order() -> None:
    with Signals({signal.SIGUSR1, signal.SIGUSR2}) as signals:
        signal.raise_signal(signal.SIGUSR2)
        signal.raise_signal(signal.SIGUSR1)
        assert signals.take() == [signal.SIGUSR2, signal.SIGUSR1]
        assert signals.take() == []
