# SPDX-License-Identifier: Apache-2.0
"""What the verifier writes in, tables out. The logs are cut from Linux 6.12's."""

from __future__ import annotations

import pytest

from tools import verifier_cost

STATISTICS = """\
verification time 734871 usec
stack depth 40+0+0
processed 71841 insns (limit 1000000) max_states_per_insn 22 total_states 3089 peak_states 2561 mark_read 148
"""

LOG = """\
func#0 @0
0: R1=ctx() R10=fp0
; int HOOK_PROG(path_mkdir__file @ file.bpf.c:155
0: (bf) r6 = r1                       ; R1=ctx() R6_w=ctx()
1: (85) call pc+3
Func#1 ('count') is global and assumed valid.
2: R0_w=scalar()
2: (95) exit
Validating count() func#1...
5: R1=scalar() R10=fp0
; u64 *value = bpf_map_lookup_elem(&counters, &counter); @ engine.bpf.c:30
5: (63) *(u32 *)(r10 -4) = r1
6: (b7) r0 = 0
6: (95) exit
Func#1 ('count') is safe for any args that match its prototype
"""


def test_statistics() -> None:
    cost = verifier_cost.parse_statistics(STATISTICS, 1.06)
    assert cost == verifier_cost.Cost(0.734871, 1.06, 71841, 3089, 2561)
    with pytest.raises(ValueError, match="no statistics"):
        verifier_cost.parse_statistics("permission denied", 0)


def test_functions_and_lines() -> None:
    assert verifier_cost.parse_functions(LOG, "(program)") == {"(program)": 3, "count": 3}
    assert verifier_cost.parse_lines(LOG) == {"file.bpf.c:155": 3, "engine.bpf.c:30": 3}
