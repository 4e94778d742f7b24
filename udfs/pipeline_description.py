"""A pipeline as plain data, for people and programs."""

from typing import Any

from udfs.aggregates import Aggregate
from udfs.durations import duration_text
from udfs.formats import describe_format
from udfs.lookups import describe_lookup
from udfs.pipeline import Pipeline
from udfs.plan import FeaturePlan
from udfs.requests import describe_requests
from udfs.session_topic import describe_sessions


def describe_pipeline(pipeline: Pipeline) -> dict[str, Any]:
    """As of `Pipeline.describe`."""
    features = []
    for feature in pipeline.features:
        window = feature.window if isinstance(feature, Aggregate) else None
        where = feature.where.name if isinstance(feature, Aggregate) and feature.where is not None else None
        tile = feature.tile if isinstance(feature, Aggregate) else None
        for name in feature.names(pipeline.fields):
            row = {"name": name, "window": window, "where": where, "tile": tile, "meaning": feature.meaning}
            features.append(row)
    return {
        "name": pipeline.name,
        "topics": {
            "events": pipeline.events.topic,
            "predictions": pipeline.predictions,
            "dead_letters": pipeline.dead_letters,
            "features": pipeline.features_topic,
        },
        "sources": pipeline.events.source_topics,
        "requests": describe_requests(pipeline),
        "sessions": describe_sessions(pipeline),
        "lookups": [describe_lookup(each) for each in pipeline.lookups],
        "formats": {
            "events": describe_format(pipeline.events.format),
            "keys": describe_format(pipeline.events.key_format),
            "predictions": describe_format(pipeline.output_format),
        },
        "entity": pipeline.events.entity,
        "features": features,
        "vectors": {name: len(names) for name, names in pipeline.blocks.items()},
        "feature_set_hash": pipeline.feature_set_hash(),
        "lateness": duration_text(pipeline.lateness_ms) if pipeline.lateness_ms else None,
        "retention": duration_text(pipeline.retention_ms) if pipeline.retention_ms else None,
        "state": FeaturePlan.build(pipeline).state_description(),
    }
