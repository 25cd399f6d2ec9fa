# SPDX-License-Identifier: Apache-2.0
"""The firing range: practical cases of attacks that are played, harmlessly, against the policies in force.

`cases` says what is done, `stage` makes a world for it that is gone afterwards, `play` does it and tells what became of it. The command
`bpfence range` calls them; nothing else does.
"""
