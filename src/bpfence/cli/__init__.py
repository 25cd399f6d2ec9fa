# SPDX-License-Identifier: Apache-2.0
"""The `bpfence` command.

    main         the group, version, completion
    show         errors, diagnostics and tables for people; nothing hostile reaches the terminal unescaped
    policies     check, explain, test: what needs no kernel
    falco        fields, convert; check, explain and test of Falco's rule files
    host         run, exec, status, unload, doctor: what does
    seccomp      profiles: check, explain, diff, merge, export, import
    seccomp_run  commands under profiles: run, learn, supervise; in the same group
"""
