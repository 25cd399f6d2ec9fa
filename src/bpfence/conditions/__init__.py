# SPDX-License-Identifier: Apache-2.0
"""What every policy language builds conditions from: values of fields, groups of events, symbolic links.

values   one field and the text of one value → a condition
text     a condition → its text
expand   a rule as it was written → the exact condition of each of its events
links    a policy's paths, and what they lead to → the same policy for both names
"""
