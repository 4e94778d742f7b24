"""The Table job over a topic as it is now, to compare its features: run once, to the end, on a topic of its own."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from flink_jobs.committed_reader import read_all, receipt
from flink_jobs.job_run import start_job
from flink_jobs.kafka_admin import create_topics
from flink_jobs.settings import Settings
from flink_jobs.topics import SQL, topic_specs
from udfs.pipeline import Pipeline

_NEVER_IDLE_MS = 86_400_000


class SqlAnswer(NamedTuple):
    """What the Table job answered to a record.

    Attributes:
        partition: Of the record.
        offset: Of the record.
        features: By name, None for a missing value; None for a dead letter.
        score: None for a dead letter.
        reason: Why it is a dead letter; None for a prediction. `late` is the engine's own.
    """

    partition: int
    offset: int
    features: dict[str, float | None] | None
    score: float | None
    reason: str | None


def replay_by_sql(pipeline: Pipeline, settings: Settings, *, name: str) -> Iterator[SqlAnswer]:
    """Answers of the Table job to everything that is in the pipeline's topic now.

    Args:
        pipeline: What to compute; its features are in the answers whatever it says.
        settings: How; no partition counts as idle here, so what is read later is not late.
        name: The pipeline's for this run, and with it that of its topics and checkpoints: one that was not used before.

    Yields:
        An answer a record, in no order. Records that SQL's windows dropped have none.

    Raises:
        JobFailedError: The job gave up.
        SqlRefusedError: SQL cannot express a feature.
    """
    own = dataclasses.replace(
        pipeline,
        name=name,
        predictions=f"{name}-predictions",
        dead_letters=f"{name}-dead-letters",
        include_features=True,
        features_topic=None,
        sessions=None,
    )
    create_topics(settings.bootstrap, topic_specs(own), settings.kafka_properties)
    run = start_job(own, settings.model_copy(update={"idle_ms": _NEVER_IDLE_MS}), engine=SQL)
    try:
        run.wait_until_running()
        run.wait_until_read()
        run.stop(drain=True)
    except BaseException:
        with contextlib.suppress(Exception):
            run.cancel()
        raise
    for message in read_all(settings.bootstrap, [own.predictions, f"{name}-dead-letters"], settings.kafka_properties):
        yield _answer(message, own)


def _answer(message: Any, pipeline: Pipeline) -> SqlAnswer:
    found = receipt(message)
    place = int(found["partition"]), int(found["offset"])
    if message.topic() != pipeline.predictions:
        return SqlAnswer(*place, None, None, found["reason"])
    body = msgspec.json.decode(message.value())
    features = {name: body["features"][name] for name in pipeline.feature_names}
    return SqlAnswer(*place, features, body[pipeline.outputs.names[0]], None)
