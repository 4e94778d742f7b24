"""`millrace parity` without its words: one input, several engines, every feature of every event compared."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flink_jobs.decoding import in_json
from flink_jobs.events_producer import produce_events
from flink_jobs.kafka_admin import TopicSpec, create_topics, topic_ends
from flink_jobs.parity_by_design import unordered_events
from flink_jobs.parity_comparison import Comparison, Side, compare, replayed
from flink_jobs.parity_engines import Engine, EngineRun, by_backfill, by_oracle, by_streaming
from flink_jobs.parity_rows import FEATURES, EngineRows, ParityInput, Record, spool_input, spooled
from flink_jobs.parity_sql import by_sql, without_refused
from flink_jobs.security_settings import OPEN
from flink_jobs.settings import Settings
from udfs.aggregates import Aggregate, Ratio
from udfs.lookups import split_lookup
from udfs.naive_features import field_value
from udfs.pipeline import Pipeline

TOPIC = "parity-events"
ORACLE = "oracle"
EVENTS_SHOWN = 50
ENGINES: dict[str, Engine] = {
    "oracle": by_oracle, "streaming": by_streaming, "backfill": by_backfill, "sql": by_sql,
}  # fmt: skip
"""In the order in which they are compared."""
Step = Callable[[str, float], None]


@dataclass(frozen=True)
class Difference:
    """The first difference of a feature, with the events that explain it.

    Attributes:
        comparison: What differs.
        place: Partition and offset of the record.
        record: Its key and value as text.
        values: What each engine said, by its name.
        events: What the feature is made of by the definition: time and fields, those that it reads of rows among them,
            in order of arrival; the last fifty.
    """

    comparison: Comparison
    place: tuple[int, int]
    record: tuple[str | None, str | None]
    values: dict[str, Any]
    events: list[dict[str, Any]]


@dataclass(frozen=True)
class ParityReport:
    """What came of it.

    Attributes:
        given: The input.
        refused: Records that are no events, by the first engine.
        comparisons: A pair of engines and a feature each.
        differences: The first of each comparison that has one.
        answers_twice: Answers beyond the first of a record, by engine.
        elapsed_s: By engine, starts and stops included.
    """

    given: ParityInput
    refused: int
    comparisons: list[Comparison]
    differences: list[Difference]
    answers_twice: dict[str, int]
    elapsed_s: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether all agree."""
        return not any(each.differences for each in self.comparisons) and not any(self.answers_twice.values())


def send_input(
    pipeline: Pipeline,
    bootstrap: str,
    folder: Path,
    records: Iterable[tuple[bytes | None, bytes | None, str | None]],
    shards: int,
    seed_text: str,
    should_stop: Callable[[], None],
) -> ParityInput:
    """Put the records into a new topic, in order, and read them back.

    Args:
        pipeline: Whose; gets a topic of its own. The tables of its lookups are there.
        bootstrap: A broker without that topic.
        folder: Of this run.
        records: Key, value, and the reason for which it must be refused, if known.
        shards: Of the job.
        seed_text: Says to people how to repeat it.
        should_stop: Called often; raises to end.
    """
    own = in_json(pipeline)
    events = dataclasses.replace(own.events, topic=f"{pipeline.name}-{TOPIC}")
    own = dataclasses.replace(own, events=events)
    topic, partitions = own.events.topic, own.events.partitions
    create_topics(bootstrap, [TopicSpec(topic, partitions)])
    reasons: dict[Record, str] = {}

    def sent() -> Iterator[Record]:
        for key, value, reason in records:
            if reason is not None:
                reasons[key, value] = reason
            yield key, value

    def stop_on_request() -> bool:
        should_stop()
        return False

    if produce_events(bootstrap, topic, sent(), should_stop=stop_on_request).interrupted:
        raise KeyboardInterrupt
    return spool_input(own, bootstrap, folder, topic_ends(bootstrap, topic), shards, reasons, seed_text)


def run_engines(
    given: ParityInput,
    settings: Settings,
    engines: Sequence[str],
    *,
    processes: int,
    should_stop: Callable[[], None],
    step: Step = lambda _text, _share: None,
) -> ParityReport:
    """Let each engine say what it says, and compare: the oracle with all others, and the others with each other.

    Args:
        given: The input.
        settings: The user's.
        engines: Names of `ENGINES`, at least two.
        processes: How many may work.
        should_stop: Called often; raises to end.
        step: Told what is being done and the share that is done.
    """
    own = settings.model_copy(update={
        "bootstrap": given.bootstrap, **OPEN, "restart_attempts": 0, "checkpoint_folder": None,
        "shards": given.shards, "guarantee": "exactly-once",
    })  # fmt: skip
    sides: list[Side] = []
    elapsed_s: dict[str, float] = {}
    for name in engines:
        rows = EngineRows(given.folder / "rows" / name, given.count, len(given.pipeline.feature_names), create=True)
        run = EngineRun(given, own, rows, lambda share, name=name: step(name, share), should_stop, processes)  # type: ignore[misc]
        began = time.monotonic()
        sides.append(Side(name, rows, ENGINES[name](run)))
        elapsed_s[name] = time.monotonic() - began
    comparisons = []
    for first, second in itertools.combinations(sides, 2):
        unordered = next((side for side in (first, second) if side.said.by_event_time), None)
        by_design = None
        if unordered is not None:
            kept = without_refused(given.pipeline, unordered.said.refused)
            answered = np.asarray(unordered.rows.answers) == FEATURES
            by_design = unordered_events(given, kept.longest_window_ms, answered)
        pair = f"comparing {first.name} and {second.name}"
        comparisons += compare(given, first, second, by_design, lambda share, pair=pair: step(pair, share))  # type: ignore[misc]
    return ParityReport(
        given,
        int((np.asarray(sides[0].rows.answers) == 2).sum()),
        comparisons,
        _differences(given, sides, comparisons),
        {side.name: int(side.rows.twice[0]) for side in sides},
        elapsed_s,
    )


def _differences(given: ParityInput, sides: list[Side], comparisons: list[Comparison]) -> list[Difference]:
    """The first of each comparison, explained."""
    wanted: dict[int, list[Comparison]] = {}
    for each in comparisons:
        if each.row is not None:
            wanted.setdefault(each.row, []).append(each)
    if not wanted:
        return []
    by_name = {side.name: side for side in sides}
    records: dict[int, tuple[bytes | None, bytes | None]] = {}
    for shard in range(given.shards):
        records |= {one.row: (one.key, one.value) for one in spooled(given.shard_file(shard)) if one.row in wanted}
    events: dict[tuple[int, str], list[dict[str, Any]]] = {}
    owners = {
        name: feature for feature in given.pipeline.features for name in feature.names(given.pipeline.fields)
    }
    for row, oracle, entity in replayed(given, wanted):
        for each in wanted[row]:
            if each.feature in owners:
                feature = owners[each.feature]
                parts = (feature.numerator, feature.denominator) if isinstance(feature, Ratio) else (feature,)
                used = [one for part in parts if isinstance(part, Aggregate) for one in oracle.window(part, entity)]
                of_rows = [name for name in feature.reads if split_lookup(name) is not None]
                if not used and of_rows:
                    used = oracle.arrived[entity][-1:]  # the record does not show the row that it saw
                fields = [*(one.name for one in given.pipeline.events.schema), *of_rows]
                told = [
                    {"time_ms": one.time_ms, "event": {name: field_value(one.event, name) for name in fields}}
                    for one in used[-EVENTS_SHOWN:]
                ]
                events[row, each.feature] = told
    return [
        Difference(
            each,
            given.place(row),
            (_text(records[row][0]), _text(records[row][1])),
            {name: _said(by_name[name], row, each.feature, given.pipeline) for name in (each.first, each.second)},
            events.get((row, each.feature), []),
        )
        for row, found in sorted(wanted.items())
        for each in found
    ]


def _said(side: Side, row: int, feature: str, pipeline: Pipeline) -> Any:
    from udfs.wire_formats import REASONS

    answer = int(side.rows.answers[row])
    if answer == FEATURES and feature in pipeline.feature_names:
        return float(side.rows.features[row, pipeline.feature_names.index(feature)])
    if answer == FEATURES:
        return "prediction, late" if side.rows.late[row] else "prediction"
    reason = int(side.rows.reasons[row])
    known = REASONS[reason - 1] if 0 < reason <= len(REASONS) else "another reason"
    return f"dead letter: {known}" if answer else "no answer"


def _text(content: bytes | None) -> str | None:
    return None if content is None else content[:2_000].decode("utf-8", "replace")
