# SPDX-License-Identifier: Apache-2.0
"""Bytes from the kernel in, observations out, whatever the language of the rules.

    records   ring buffer bytes → KernelEvent          (hostile input: nothing here raises on garbage)
    loss      sequence numbers and lost counters → what was lost
    process   exec ids → executables, arguments, ancestors; boot time → wall clock
    source    all of the above behind one interface: the live engine, a recorded file, or made-up events
    values    raw values → what people read, and back

Used by `alerts`, dialects, the agent and the CLI. Only `agent` knows where the bytes come from.
"""
