# SPDX-License-Identifier: Apache-2.0
"""Bytes in, nodes with their places and diagnostics out; knows no format's meaning.

report        mistakes, collected in the order they were found
yaml_nodes    YAML → bounded trees of nodes with their places
json_values   JSON → bounded trees of values with their places
"""
