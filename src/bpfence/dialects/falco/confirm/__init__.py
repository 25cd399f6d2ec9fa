# SPDX-License-Identifier: Apache-2.0
"""Events that the kernel named Falco rules for in, the rules that really match out, with the values of their fields.

event       an event as Falco sees it       calls   the arguments of its system call
live        its fields from kernel records, process images and /proc
rules       conditions evaluated, outputs filled in
detection   the rule sets of the last generations, and which one a record is confirmed by
"""
