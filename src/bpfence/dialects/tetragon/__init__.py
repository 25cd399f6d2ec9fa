# SPDX-License-Identifier: Apache-2.0
"""Tetragon's tracing policies in, policies of bpfence out, and events in the form that Tetragon's users read.

dialect    the package in the shape of every dialect
read       YAML → tracing policies with the place of every part, checked as the reference checks them
lower      tracing policies → rules of the model, and what cannot be put in force
confirm    an observation → what Tetragon would say of it
show       lines → JSON of Tetragon's export
"""
