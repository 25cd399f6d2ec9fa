# SPDX-License-Identifier: Apache-2.0
"""The long-running process behind `bpfence run` and `bpfence exec`.

    agent        start, loop, reload, stop          loading       files → policies and rules
    generations  what verdicts of older tables mean   follow        what paths of `follow: object` name
    remake       tables made beside the loop        privileges    given up after the start
"""
