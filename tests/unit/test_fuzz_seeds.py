"""What fuzzing starts from, and what it once found, is read without a failure."""

import pytest
from fuzz.targets import TARGETS

from flink_jobs.environment import PROJECT_ROOT

SEEDS = PROJECT_ROOT / "tests" / "fuzz" / "seeds"


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_are_read_without_a_failure(target):
    seeds = sorted((SEEDS / target).iterdir())
    assert seeds
    for seed in seeds:
        TARGETS[target](seed.read_bytes())
