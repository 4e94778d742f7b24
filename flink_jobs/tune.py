"""Which settings to try, one after the other, and which of them to use: decisions only, no job.

In: what the machine has, and what each trial measured. Out: the next settings to try, or none; and the choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

Setting = dict[str, int]

THROUGHPUT_SHARE = 0.9
"""A setting may cost this much of the best throughput for a shorter latency, no more."""

NOISE_SHARE = 0.05
"""Differences below this are not worth another setting than the one there is."""

SHARDS = (8, 32, 64)
BATCH_MS = (5, 10, 20, 50, 100)
BUNDLE_MS = (1, 3, 10)


@dataclass(frozen=True)
class Trial:
    """What one setting gave.

    Attributes:
        setting: By names of `Settings`.
        events_per_s: Under a backlog; 0 if the trial failed.
        latency_p50_ms: From sending an event to writing its prediction, at the steady rate.
        latency_p99_ms: The same, of the slowest percent.
        problem: Why it cannot be used; None if it can.
    """

    setting: Setting
    events_per_s: float = 0.0
    latency_p50_ms: float = 0.0
    latency_p99_ms: float = 0.0
    problem: str | None = None


def candidates(cores: int, partitions: int) -> dict[str, tuple[int, ...]]:
    """Values to try of each setting, in the order in which the settings are tried.

    Parallelism first, because all others depend on it; more subtasks than cores or partitions only cost.
    """
    most = max(1, min(cores, partitions))
    parallelism = [1]
    while parallelism[-1] * 2 <= most:
        parallelism.append(parallelism[-1] * 2)
    if parallelism[-1] != most:
        parallelism.append(most)
    shards = tuple(value for value in SHARDS if value >= parallelism[-1]) or (parallelism[-1],)
    return {"parallelism": tuple(parallelism), "shards": shards, "batch_ms": BATCH_MS, "bundle_ms": BUNDLE_MS}


def most_trials(start: Setting, tried_values: dict[str, tuple[int, ...]]) -> int:
    """How many trials a search has at most."""
    return 1 + sum(len(set(values) - {start[name]}) for name, values in tried_values.items())


def next_setting(
    start: Setting, tried_values: dict[str, tuple[int, ...]], trials: Sequence[Trial], most_latency_ms: float | None
) -> Setting | None:
    """What to try next: `start`, then each value of one setting after the other, the others as chosen until then.

    Args:
        start: The settings as they are; it must be the first of the trials.
        tried_values: From `candidates`.
        trials: What has been tried, in that order.
        most_latency_ms: As for `choose`.

    Returns:
        A setting, or None when all have been tried.
    """
    found = {_key(trial.setting): trial for trial in trials}
    if _key(start) not in found:
        return start
    passed = [found[_key(start)]]
    for name, values in tried_values.items():
        base = choose(passed, most_latency_ms)
        if base is None:
            return None
        for value in values:
            setting = {**base.setting, name: value}
            trial = found.get(_key(setting))
            if trial is None:
                return setting
            passed.append(trial)
    return None


def choose(trials: Sequence[Trial], most_latency_ms: float | None = None) -> Trial | None:
    """The trial whose setting to use; of those that are as good as each other the one that was tried first.

    Args:
        trials: In the order in which they were tried.
        most_latency_ms: The highest throughput with a p99 of at most this, or the lowest p99 if none has that. None
            means the lowest p99 among those that have at least `THROUGHPUT_SHARE` of the best throughput.

    Returns:
        None when no trial can be used.
    """
    usable = [trial for trial in trials if trial.problem is None]
    if not usable:
        return None
    best_per_s = max(trial.events_per_s for trial in usable)
    if most_latency_ms is None:
        fast = [trial for trial in usable if trial.events_per_s >= THROUGHPUT_SHARE * best_per_s]
        return _lowest_latency(fast)
    prompt = [trial for trial in usable if trial.latency_p99_ms <= most_latency_ms]
    if not prompt:
        return _lowest_latency(usable)
    most_per_s = max(trial.events_per_s for trial in prompt)
    return next(trial for trial in prompt if trial.events_per_s >= (1 - NOISE_SHARE) * most_per_s)


def _lowest_latency(trials: Sequence[Trial]) -> Trial:
    least_ms = min(trial.latency_p99_ms for trial in trials)
    return next(trial for trial in trials if trial.latency_p99_ms <= (1 + NOISE_SHARE) * least_ms)


def _key(setting: Setting) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(setting.items()))
