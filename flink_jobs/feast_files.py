"""A Feast repository whose online store is the one that `features sync` fills, and whose history is a training set.

Feast itself is not needed here: these are two files. That it reads the store's layout is said in `udfs.feast_layout`.
"""

import json
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from flink_jobs.console import CommandError, next_steps, say, show, show_json
from flink_jobs.feature_store import SQLITE, sqlite_path, store_url, ttl_ms
from flink_jobs.settings import Settings
from flink_jobs.training_set import facts_for
from udfs.feast_layout import FeastLayout
from udfs.pipeline import Pipeline

STORE_FILE, DEFINITIONS_FILE = "feature_store.yaml", "features.py"
PASSWORD_VARIABLE = "MILLRACE_FEATURE_STORE_PASSWORD"  # noqa: S105  # its name


def run_features_export_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    target: Path,
    store: str | None,
    training_set: Path | None,
    as_json: bool,
) -> None:
    """Write the repository, and say how Feast reads it."""
    if pipeline.features_topic is None:
        raise CommandError(
            f"pipeline {pipeline.name} writes no features: give it features_topic='{pipeline.name}-features'"
        )
    if training_set is not None:
        facts_for(training_set, pipeline)
    layout, url = FeastLayout.of(pipeline), store or store_url(pipeline, settings)
    texts = {
        STORE_FILE: store_text(layout, url, with_password=settings.feature_store_password_file is not None),
        DEFINITIONS_FILE: definitions_text(pipeline, layout, training_set),
    }
    target.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        path = target / file
        if path.exists() and path.read_text("utf-8") != text:
            say(f"{path} is written anew", style="yellow")
        path.write_text(text, "utf-8")
    if as_json:
        show_json({"folder": str(target), "project": layout.project, "feature_view": layout.view, "store": url})
        return
    show(f"{target}: Feast's project {layout.project}, feature view {layout.view} with {len(layout.features)} features")
    first = f"{layout.view}:{layout.features[0]}"
    next_steps(
        (f"feast -c {target} apply", "register them, where Feast is installed"),
        (f"store.get_online_features([{first!r}], [{{{layout.join_key!r}: ...}}])", "what `features sync` has written"),
    )
    if settings.feature_store_password_file is not None:
        say(f"Feast reads the password of Redis from the environment: {PASSWORD_VARIABLE}")


def store_text(layout: FeastLayout, url: str, *, with_password: bool) -> str:
    """Feast's configuration: where things are."""
    parts = urlsplit(url)
    online: dict[str, str]
    if parts.scheme in SQLITE:
        online = {"type": "sqlite", "path": str(sqlite_path(url))}
    else:
        words = [f"{parts.hostname}:{parts.port or 6379}", f"db={parts.path.strip('/') or 0}"]
        words += [f"username={parts.username}"] if parts.username else []
        words += [f"password=${{{PASSWORD_VARIABLE}}}"] if with_password else []
        words += ["ssl=true"] if parts.scheme == "rediss" else []
        online = {"type": "redis", "connection_string": ",".join(words)}
    document = {
        "project": layout.project,
        "provider": "local",
        "registry": "registry.db",
        "online_store": online,
        "offline_store": {"type": "file"},
        "entity_key_serialization_version": 3,
    }
    text: str = yaml.safe_dump(document, sort_keys=False)
    return text


def definitions_text(pipeline: Pipeline, layout: FeastLayout, training_set: Path | None) -> str:
    """Entity, history and feature view, as Feast's objects in Python."""
    kept_ms = ttl_ms(pipeline, None)
    ttl = f"timedelta(milliseconds={kept_ms})" if kept_ms else "timedelta(0)  # for ever"
    history = training_set.absolute() if training_set is not None else "training_set.parquet"
    fields = "\n".join(f"        Field(name={json.dumps(name)}, dtype=Float64)," for name in layout.features)
    return f'''"""Features of pipeline {pipeline.name}, written by `millrace features export-feast`: do not edit.

`millrace features sync` fills the online store, so do not materialize into it: that would put values of the training
set's time over those of the stream.
"""

from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

entity = Entity(name={json.dumps(layout.join_key)}, value_type=ValueType.STRING)

# a training set of `millrace backfill`: each event with the features that were known then
history = FileSource(
    name={json.dumps(f"{layout.project}_training_set")},
    path={json.dumps(str(history))},
    timestamp_field="_event_time",
    field_mapping={{"_entity": {json.dumps(layout.join_key)}}},
)

view = FeatureView(
    name={json.dumps(layout.view)},
    entities=[entity],
    ttl={ttl},
    schema=[
{fields}
    ],
    online=True,
    source=history,
)
'''
