# SPDX-License-Identifier: Apache-2.0
"""The long-running process behind `bpfence run` and `bpfence exec`.

agent       start, reload, stop, and what is told of bpfence itself      loop         descriptors and timers
loading     policy files of any language → policies and rules            tables       what is in force in the kernel
pipeline    observations → lines, stage by stage                         confirms     what user space confirms, by language
remake      work beside the loop: reading and compiling                  generations  what verdicts of older tables mean
follow      what paths of `follow: object` name                          privileges   given up after the start
kernel      what is needed of the kernel side, as protocols
"""
