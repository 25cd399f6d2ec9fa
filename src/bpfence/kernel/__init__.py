# SPDX-License-Identifier: Apache-2.0
"""Compiled images in, verdicts in the kernel and records out: everything that talks to bpf(2).

Called by the agent, `bpfence exec`, `status`, `unload` and `doctor`:

    from bpfence.kernel.features import probe
    from bpfence.kernel.engine import Engine, inspect, unload

    binding.c, _libbpf   libbpf compiled into Python           libbpf     its objects and failures as Python types
    features             the kernel's features, as a value      programs   the table of hooks: what to load for which event
    pins                 what outlives the agent, in bpffs      engine     load, attach, swap, drain, read, unload

Importing this package imports none of them: `check` and `explain` work where libbpf is not installed.
"""
