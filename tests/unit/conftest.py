# SPDX-License-Identifier: Apache-2.0
"""What all unit tests go by: none depends on the speed of the machine."""

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("bpfence", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bpfence")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads have as long as they need to write the last lines."""
    for name in ("routes.CLOSE_SECONDS", "routes.MAX_CLOSE_SECONDS", "messages.CLOSE_SECONDS"):
        monkeypatch.setattr(f"bpfence.outputs.{name}", 600.0)
