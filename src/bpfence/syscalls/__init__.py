# SPDX-License-Identifier: Apache-2.0
"""Names, numbers and arguments of system calls, for Falco's rules, seccomp profiles and alerts alike.

architectures   the machines of the tables
table           names ↔ numbers, families of calls, what libraries need
arguments       names and kinds of arguments
"""
