# SPDX-License-Identifier: Apache-2.0
"""Bytes in, tracing policies with places and diagnostics out.

words      the words of the format: types, operators, actions, and which go together
model      the shape of a tracing policy: the classes are the schema
shapes     a value of a document, a class of the model → an object, and what does not fit
checks     a tracing policy → what the reference refuses in it beyond its shape
document   files → tracing policies
"""
