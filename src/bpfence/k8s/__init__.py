# SPDX-License-Identifier: Apache-2.0
"""Kubernetes: policies and pods of the API server in, status, Events and answers to admission reviews out."""
