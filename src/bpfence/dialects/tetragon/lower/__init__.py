# SPDX-License-Identifier: Apache-2.0
"""Tracing policies in, rules of the model out, and what cannot be put in force.

hooks       which functions and LSM hooks are events that the engine has, and what their arguments are there
sensors     every other function and tracepoint: the sensor that makes an event of it, and where its arguments come to
conditions  a filter → a condition of the model
scopes      selectors of pods, containers and the host → the condition that a process is one of theirs
policies    a tracing policy → a policy
"""
