"""The Table job as an engine of `millrace parity`."""

import dataclasses

import numpy as np

from flink_jobs.parity_engines import EngineRun, Said, job_pipeline
from flink_jobs.sql_replay import replay_by_sql
from udfs.pipeline import Pipeline
from udfs.sql_features import SqlRefusedError, compile_features


def by_sql(run: EngineRun) -> Said:
    """The features that SQL can express; the others are said to be refused, with why."""
    given = run.given
    refused = refused_by_sql(given.pipeline)
    kept = [name for name in given.pipeline.feature_names if name not in refused]
    if not kept:
        return Said(refused=refused, as_json=True, by_event_time=True)
    pipeline = without_refused(given.pipeline, refused)
    places = [given.pipeline.feature_names.index(name) for name in kept]
    settings = run.settings.model_copy(update={"home": given.folder / "sql"})
    own = job_pipeline(given, "sql", pipeline)
    for answer in replay_by_sql(own, settings, name=own.name):
        run.should_stop()
        row = given.row(answer.partition, answer.offset)
        if answer.features is None:
            run.rows.refuse(row, answer.reason or "")
            continue
        features = np.full(len(given.pipeline.feature_names), np.nan)
        features[places] = [np.nan if answer.features[name] is None else answer.features[name] for name in kept]
        run.rows.answer(row, features.tolist(), False)
    return Said(refused=refused, as_json=True, by_event_time=True)


def refused_by_sql(pipeline: Pipeline) -> dict[str, str]:
    """Names of features that SQL cannot express, and why."""
    refused: dict[str, str] = {}
    for feature in pipeline.features:
        names = feature.names(pipeline.fields)
        try:
            # of the prediction nothing is compared
            compile_features(dataclasses.replace(pipeline, features=[feature], prediction=pipeline.outputs.names[0]))
        except SqlRefusedError as error:
            why = str(error).partition(" cannot be run by SQL: ")[2].removeprefix(f"{', '.join(names)}: ")
            refused |= dict.fromkeys(names, why)
    return refused


def without_refused(pipeline: Pipeline, refused: dict[str, str]) -> Pipeline:
    """The pipeline with the other features only."""
    features = [each for each in pipeline.features if each.names(pipeline.fields)[0] not in refused]
    return dataclasses.replace(pipeline, features=features)
