# SPDX-License-Identifier: Apache-2.0
"""The text of Falco rule files in, final rules and diagnostics out.

document   YAML trees → entries: lists, macros, rules, requirements
traced     texts put together whose every character can be traced back
language   conditions: text ↔ syntax tree
fields     the table of fields        events   the table of event types
checks     fields looked up, operands converted, operators against types
patterns   globs, regular expressions, path sets as functions
output     outputs: text → parts
resolve    overrides, lists and macros put in → final rules
"""
