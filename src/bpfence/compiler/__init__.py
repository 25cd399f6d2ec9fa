# SPDX-License-Identifier: Apache-2.0
"""Policies in, the tables that the kernel walks out. Pure and deterministic: the same bytes for the same policies.

compile     the passes, one after the other; `compile_policies` is the way in
lowering    rules and defaults → clauses        classes   tests → dimensions and classes
plan        clauses that would multiply → that add
groups      clauses → groups of them            cache       automata that were made before
automaton   patterns → automata over bytes      diagram   clauses → decision diagrams
determinise the same automata in Python   rows        automata → cells of the image
core        both, compiled: automata.c, minimise.c, rows.c
image       all of it → pages of words          explain   what became of each rule, for people
"""
