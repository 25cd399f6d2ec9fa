# SPDX-License-Identifier: Apache-2.0
"""Falco's rule files.

read/       text → final rules, diagnostics
lower/      final rules → what of them the kernel decides, as policies
load        both: the rules of files, with what is wrong in them
confirm/    an event that the kernel named rules for → the rules that really match
show        a match → Falco's JSON and text
recording   events that were looked at → lines that can be replayed
"""
