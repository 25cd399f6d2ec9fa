# SPDX-License-Identifier: Apache-2.0
"""Seccomp profiles in, filters, tables and other formats out.

Used by the CLI, by native policies that carry `seccomp:`, and by what applies filters. From the text of a profile to its use:

    findings    every diagnostic code, and the list they are collected in
    model       Profile and its parts
    profile     values → Profile, and back to normalised JSON; which rules hold for an architecture, capabilities, a kernel
    runtimes    what container runtimes call after the filter is in force
    filter      Profile → struct sock_filter through libseccomp (`libseccomp` is the binding)
    interpret   what a filter does to a call, what a profile says about it, and whether the two agree
    table       what happens to every call, and why
    check       what is wrong with a profile that can be read
    merge       the union of two profiles, and the difference
    export      other formats, out and in
    schema      the shape of a profile as JSON Schema
    objects     the SeccompProfile of Kubernetes: a profile, and to whom it is bound

Nothing here applies a filter to a process, and only `libseccomp` calls C.
"""
