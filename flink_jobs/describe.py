"""A pipeline in words: features in order, windows, model, topics, and what is kept for an entity."""

from collections import Counter
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from flink_jobs.pipelines import model_folder, model_root
from flink_jobs.topics import group_id
from models.json_document import ModelRefusedError, ModelUnreachableError
from models.manifest import MANIFEST_FILE, Manifest
from udfs.durations import duration_text
from udfs.events import split_element
from udfs.pipeline import Pipeline
from udfs.state_changes import prediction_document


def description(pipeline: Pipeline) -> dict[str, Any]:
    """The pipeline as plain data; a model that is not there or cannot be read says so."""
    return {
        **pipeline.describe(),
        "model": _model(pipeline),
        "prediction": prediction_document(pipeline),
        "partitions": pipeline.events.partitions,
        "consumer_group": group_id(pipeline),
    }


def _model(pipeline: Pipeline) -> dict[str, Any]:
    found: dict[str, Any] = {"name": pipeline.model.name, "version": pipeline.model.version, "problem": None}
    try:
        folder = model_folder(pipeline)
    except (ModelRefusedError, ModelUnreachableError) as error:
        return {**found, "folder": str(model_root(pipeline)), "problem": str(error)}
    found["folder"] = str(folder)
    if not folder.is_dir():
        return {**found, "problem": f"not there: `millrace train {pipeline.name}` makes a model"}
    try:
        manifest = Manifest.from_json((folder / MANIFEST_FILE).read_bytes(), where=str(folder / MANIFEST_FILE))
        fits = manifest.feature_set_hash == pipeline.feature_set_hash(manifest.features)
    except (ModelRefusedError, OSError, ValueError) as error:
        return {**found, "problem": " ".join(str(error).split())}
    return {
        **found,
        "description": manifest.description,
        "sha256": manifest.sha256,
        "features": list(manifest.features),
        "metrics": dict(manifest.metrics),
        "problem": None if fits else "was made for other features than the pipeline has now: train it again",
    }


def description_view(document: dict[str, Any]) -> Group:
    """The same for people."""
    features = Table(title="features, in the order of the model's inputs", title_justify="left", box=None)
    for heading in ("#", "name", "window", "tile", "meaning"):
        features.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for number, row in _listed(document):
        features.add_row(number, row["name"], row["window"] or "", row["tile"] or "", row["meaning"])
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in (*_topic_facts(document), *_model_facts(document["model"]), *_state_facts(document)):
        facts.add_row(name, Text(text))
    return Group(Text(f"pipeline {document['name']}", "bold"), Text(), features, Text(), facts)


def _listed(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The features with their numbers; those of a vector, or of a sequence, in one row."""
    sizes = {f"{name}_0": (name, size) for name, size in document["vectors"].items()}
    found, number = list[tuple[str, dict[str, Any]]](), 1
    while number <= len(document["features"]):
        row = document["features"][number - 1]
        name, size = sizes.get(row["name"], (row["name"], 1))
        if size == 1:
            found.append((str(number), row))
        else:
            meaning = row["meaning"].replace("[0]", "", 1).replace("number 1 of ", "", 1)
            together = {"name": f"{name}_0 … {size - 1}", "meaning": meaning}
            found.append((f"{number}-{number + size - 1}", {**row, **together}))
        number += size
    return found


def _topic_facts(document: dict[str, Any]) -> list[tuple[str, str]]:
    topics, entity = document["topics"], document["entity"]
    sources = [("sources", f"topics {', '.join(document['sources'])}")] if document["sources"] else []
    return [
        *sources,
        ("events", f"topic {topics['events']}, {document['partitions']} partitions, keyed by {entity}"),
        ("predictions", f"topic {topics['predictions']}, {_prediction_text(document['prediction'])}"),
        ("dead letters", f"topic {topics['dead_letters']}"),
        *([("feature vectors", f"topic {topics['features']}, by {entity}")] if topics["features"] else []),
        *_session_facts(document["sessions"], entity),
        *_request_facts(document["requests"]),
        *_lookup_facts(document["lookups"]),
        ("consumer group", document["consumer_group"]),
    ]


def _session_facts(sessions: dict[str, Any] | None, entity: str) -> list[tuple[str, str]]:
    if sessions is None:
        return []
    late = f" and {sessions['lateness']} for late events" if sessions["lateness"] else ""
    told = f"topic {sessions['topic']}, by {entity}, each once nothing came for {sessions['gap']}{late}"
    return [("closed sessions", told)]


def _request_facts(requests: dict[str, Any] | None) -> list[tuple[str, str]]:
    if requests is None:
        return []
    needed = ", ".join(requests["required"]) or "no fields"
    told = f"topic {requests['topic']}, with {needed}; answered in {', '.join(requests['replies'])}"
    return [("requests", told)]


def _lookup_facts(lookups: list[dict[str, Any]]) -> list[tuple[str, str]]:
    facts = list[tuple[str, str]]()
    for each in lookups:
        told = f"{each['name']}: {each['by']} is the {each['key']} of a row in "
        told += f"topic {each['topic']}" if each["topic"] else f"file {each['file']}"
        since = f", valid from {each['time']}" if each["time"] else ""
        later = f", {each['delay']} later" if each["delay"] else ""
        facts.append(("lookups" if not facts else "", told + since + later))
    return facts


def _prediction_text(prediction: str | dict[str, str]) -> str:
    return f"the value is {prediction}" if isinstance(prediction, str) else f"with {'; '.join(prediction.values())}"


def _model_facts(model: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [("model", f"{model['name']}/{model['version']} in {model['folder']}")]
    if model.get("description"):
        facts.append(("", model["description"]))
    for who, numbers in model.get("metrics", {}).items():
        if isinstance(numbers, dict):
            shown = ", ".join(f"{name} {_number_text(value)}" for name, value in numbers.items() if _is_number(value))
            if shown:
                facts.append((f"  {who}", shown))
        elif _is_number(numbers):
            facts.append((f"  {who}", _number_text(numbers)))
    if model["problem"]:
        facts.append(("  problem", model["problem"]))
    return facts


def _state_facts(document: dict[str, Any]) -> list[tuple[str, str]]:
    state, entity = document["state"], document["entity"]
    lines = [f"{state['bytes_per_entity']} bytes for each {entity}"]
    if state["bytes_per_event"]:
        lines.append(
            f"{state['bytes_per_event']} bytes for each of its events in an exact window, "
            f"{state['most_events']:,} events at most (kept: {_kept_text(state['kept_columns'])})"
        )
    lines += [
        f"{tiles['bytes_per_tile']} bytes for each tile of {duration_text(tiles['tile_ms'])}, "
        f"{tiles['most_tiles']:,} at most"
        for tiles in state["tiles"]
    ]
    facts = [("state" if number == 0 else "", line) for number, line in enumerate(lines)]
    if document["retention"]:
        facts.append(("", f"forgotten {document['retention']} of event time after the {entity}'s newest event"))
    if document["lateness"]:
        facts.append(("lateness", f"an event up to {document['lateness']} late still sees its whole window"))
    return facts


def _kept_text(columns: list[str]) -> str:
    """Columns that are kept; those of a vector by its name."""
    counts = Counter(split_element(name)[0] for name in columns)
    listed = [name if count == 1 else f"{count} numbers of {name}" for name, count in counts.items()]
    return ", ".join(listed) or "event times only"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number_text(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
