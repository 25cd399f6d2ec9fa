# SPDX-License-Identifier: Apache-2.0
"""Lines in, files, terminals, sockets and HTTP requests out.

routes     the outputs that `--output` names, as one
forms      a line → bytes, by the form's name       terminal   the form for people     siem   CEF and OCSF
sink       bytes → a place: a queue and a thread    places     files, standard output
specs      what is said of an output → form, place, queue       choice     which lines, and what of them
remote     sockets, syslog       webhook    HTTP       stores   Loki, Elasticsearch
otlp       OpenTelemetry logs    kafka      Kafka
messages   what is to be said on standard error
"""
