# SPDX-License-Identifier: Apache-2.0
"""Policy text in, the policy model out: one module per format people already have.

Used by the CLI and the agent. Front ends know text and `policy`; they never look at the kernel, and everything a user can get
wrong comes back as a Diagnostic, never as an exception.
"""
