# SPDX-License-Identifier: Apache-2.0
"""The `bpfence` command.

main         the group, version, completion
show         errors, diagnostics and tables for people; nothing hostile reaches the terminal unescaped
policies     check, explain, test: what needs no kernel
languages    fields, events, convert: what policy languages can say
given        files and options that commands have in common
host         run, exec, status, unload, doctor: what does
pod          Kubernetes manifests: check, harden
seccomp      profiles: check, explain, diff, merge, export, import
seccomp_run  commands under profiles: run, learn, supervise; in the same group
"""
