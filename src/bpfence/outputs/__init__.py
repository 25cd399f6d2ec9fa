# SPDX-License-Identifier: Apache-2.0
"""Lines in, files, terminals and standard output out.

routes     the outputs that `--output` names, as one
forms      a line → bytes, by the form's name       terminal   the form for people
sink       bytes → a place: a queue and a thread    places     files, standard output
messages   what is to be said on standard error
"""
