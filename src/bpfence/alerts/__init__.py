# SPDX-License-Identifier: Apache-2.0
"""Observations and the rules that they matched in, lines for people and machines out.

alert   an observation and a rule → a line     acts    several events of one act → one alert
limit   rate limits by rule                    calls   answered system calls (seccomp) → lines
"""
