# SPDX-License-Identifier: Apache-2.0
"""Final Falco rules in, policies of the model that they imply out, and what is left for user space.

atoms      single tests             implied   what follows from tests on texts that the kernel keeps in another form
rules      the part of one rule's condition that the kernel can decide
exact      rules that policies can say exactly
policies   all rules as policies    links     what paths lead to through symbolic links
"""
