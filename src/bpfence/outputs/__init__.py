# SPDX-License-Identifier: Apache-2.0
"""Lines in, files, terminals and standard output out.

    routes     the outputs that `--output` names, as one
    jsonl      JSON lines       terminal   the view for people
"""
