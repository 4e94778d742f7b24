"""How many examples a property test tries: few in every run, more when asked.

    TEST_EXAMPLES=20 make unit      # twenty times as many: before a release, or when the engine changed
"""

import os

from hypothesis import HealthCheck, settings

_FACTOR = float(os.environ.get("TEST_EXAMPLES", "1"))


def examples(usual: int) -> settings:
    """Settings of a property test that tries so many examples in a usual run."""
    number = max(1, round(usual * _FACTOR))
    return settings(max_examples=number, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
