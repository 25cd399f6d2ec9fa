# SPDX-License-Identifier: Apache-2.0
"""bpfence's own policy files.

read       YAML trees → policies, and every mistake with its place
write      policies → the text of files
language   the text of `condition:` → a condition
schema     the keys of a document, and their JSON schema
effects    what a well-formed rule does that its author may not expect
seccomp    the profile that a policy carries
"""
