# SPDX-License-Identifier: Apache-2.0
"""bpfence: policies in, decisions in the kernel out. The version is the installed package's: `importlib.metadata.version("bpfence")`."""
