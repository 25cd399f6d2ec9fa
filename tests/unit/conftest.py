# SPDX-License-Identifier: Apache-2.0
"""What all unit tests go by: none depends on the speed of the machine."""

from hypothesis import HealthCheck, settings

settings.register_profile("bpfence", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bpfence")
