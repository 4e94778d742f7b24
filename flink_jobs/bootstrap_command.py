"""`millrace run --bootstrap-from`: the state from history, then the job where history ends."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flink_jobs.backfill_command import SUSPICIOUS_SHARE
from flink_jobs.backfill_request import BackfillRequest, alone
from flink_jobs.bootstrap_choice import command_of
from flink_jobs.bootstrap_job import build_state, forget_work
from flink_jobs.console import CommandError, say
from flink_jobs.hand_over import Begun, HandOver, HandOverFolder, hand_over_folder
from flink_jobs.history_files import file_pieces
from flink_jobs.history_progress import with_progress
from flink_jobs.history_topic import EARLIEST, pieces_between, topic_begins
from flink_jobs.job_run import latest_restore_point, restore_points
from flink_jobs.kafka_admin import offsets_for_time
from flink_jobs.live_start import check_live_start, live_start
from flink_jobs.settings import Settings
from flink_jobs.start_position import StartPosition
from flink_jobs.topics import offsets_text
from flink_jobs.training_set import definition_of
from udfs.pipeline import Pipeline

FORMAT = 1


@dataclass(frozen=True)
class Asked:
    """`--bootstrap-from` and what belongs to it.

    Attributes:
        sources: Files, folders and patterns; or one place in the topic: earliest or a time.
        order_by: A number field that says the order of arrival in files.
        start_from: `--from`: where live begins.
    """

    sources: tuple[str, ...]
    order_by: str | None
    start_from: str | None

    @property
    def from_topic(self) -> bool:
        """Whether history is in the topic."""
        return any(_is_place_in_topic(each) for each in self.sources)


def asked_of(
    pipeline: Pipeline, sources: Sequence[str] | None, order_by: str | None, start_from: str | None
) -> Asked | None:
    """What the options say; None without `--bootstrap-from`.

    Raises:
        CommandError: They contradict each other.
    """
    if not sources:
        if order_by is not None:
            raise CommandError("--order-by says how files of history are taken: give them with --bootstrap-from")
        return None
    asked = Asked(tuple(sources), order_by, start_from)
    if not asked.from_topic:
        if order_by is not None and pipeline.events.field(order_by, "--order-by").kind not in ("int", "float"):
            raise CommandError(f"--order-by names {order_by!r}: name a field with a number")
        if "kafka" in asked.sources and not Path("kafka").exists():
            raise CommandError("--bootstrap-from kafka: write earliest, or the time in the topic where history begins")
    elif len(sources) > 1:
        raise CommandError("--bootstrap-from takes files, or one place in the topic: earliest or a time")
    elif order_by is not None:
        raise CommandError("--order-by is for files: a topic has the order of its offsets")
    return asked


def arguments_of(pipeline: Pipeline, settings: Settings, asked: Asked) -> dict[str, Any]:
    """All that the state and the place of the hand-over depend on, as plain data."""
    source = (
        {"topic": pipeline.events.topic, "start": asked.sources[0]}
        if asked.from_topic
        else {"files": list(asked.sources)}
    )
    return {
        "format": FORMAT,
        "definition": definition_of(pipeline),
        "source": source,
        "order_by": asked.order_by,
        "from": asked.start_from,
        "shards": settings.shards,
    }


def begin_bootstrap(pipeline: Pipeline, settings: Settings, asked: Asked) -> Begun:
    """Fix where history begins and ends, for this run and those that go on with it; what was begun before is gone."""
    folder = hand_over_folder(pipeline, settings)
    last_run = latest_restore_point(pipeline, settings)
    live = live_start(pipeline, settings, asked.start_from, last_run, from_topic=asked.from_topic)
    begins = None
    if asked.from_topic:
        place = settings.bootstrap, pipeline.events.topic, settings.kafka_properties
        found = topic_begins(*place, asked.sources[0])
        begins = {partition: min(found[partition], offset) for partition, offset in live.offsets.items()}
    begun = Begun(arguments_of(pipeline, settings, asked), begins, live.offsets, live.text, last_run)
    folder.throw_away()
    folder.begin(begun)
    return begun


def build(pipeline: Pipeline, name: str, settings: Settings, begun: Begun) -> HandOver:
    """Build the state, or go on with it; afterwards it is all there."""
    folder = hand_over_folder(pipeline, settings)
    request = _request(pipeline, settings, folder, begun)
    source = begun.arguments["source"]
    what = ", ".join(source.get("files") or [f"topic {source['topic']}, {source['start']}"])
    goes_on = "going on with" if request.work_folder.exists() else "building"
    say(
        f"{goes_on} the state from {what}, without predictions; live begins {begun.live_text} "
        f"({offsets_text(begun.live)})"
    )
    say(f"Ctrl-C stops; `{command_of(name, begun)}` goes on")
    with alone(folder.path):
        digests, facts = with_progress(lambda advance: build_state(request, advance), folder.path)
        before = restore_points(pipeline, settings)
        if (before[-1] if before else None) != begun.last_run:
            raise CommandError(
                f"a job of {pipeline.name} ran while its state was built from history ({before[-1:]}): stop it, and "
                "begin anew with --fresh"
            )
        hand_over = HandOver(begun, digests, facts, before)
        folder.finish(hand_over)
        forget_work(request)
    _tell(pipeline, settings, hand_over)
    return hand_over


def _request(pipeline: Pipeline, settings: Settings, folder: HandOverFolder, begun: Begun) -> BackfillRequest:
    source, topic = begun.arguments["source"], pipeline.events.topic
    files = [Path(each) for each in source.get("files", ())]

    def pieces() -> Any:
        if begun.begins is not None:
            return pieces_between(topic, begun.begins, begun.live)
        return file_pieces(files, pipeline)

    return BackfillRequest(
        pipeline=pipeline,
        source=source,
        pieces=pieces,
        target=folder.target,
        order_by=begun.arguments["order_by"],
        shards=settings.shards,
        processes=len(os.sched_getaffinity(0)),
        bootstrap=settings.bootstrap,
        properties=settings.kafka_properties,
    )


def start_with(pipeline: Pipeline, settings: Settings, hand_over: HandOver) -> StartPosition:
    """Where the job begins that is given the state.

    Raises:
        CommandError: What was live then is not there any more.
        StateFileError: A file of the state is damaged.
    """
    begun = hand_over.begun
    if begun.arguments["definition"] != definition_of(pipeline) or begun.arguments["shards"] != settings.shards:
        raise CommandError(
            "the features, or the number of shards, changed since the state was built from history: build it anew with "
            f"`{command_of(pipeline.name, begun)} --fresh`"
        )
    check_live_start(pipeline, settings, begun.live)
    files = hand_over_folder(pipeline, settings).files(hand_over)
    for file in files:
        file.content()
    events = hand_over.facts["events"]
    text = f"beginning with the state of {events:,} events, live {begun.live_text} ({offsets_text(begun.live)})"
    return StartPosition(offsets_text(begun.live), None, text, tuple(files))


def as_json(hand_over: HandOver) -> dict[str, Any]:
    """For scripts."""
    begun = hand_over.begun
    offsets = {"history_begins": begun.begins, "live_begins": begun.live}
    return {**hand_over.facts, **offsets, "live": begun.live_text, "source": begun.arguments["source"]}


def _tell(pipeline: Pipeline, settings: Settings, hand_over: HandOver) -> None:
    facts, begun = hand_over.facts, hand_over.begun
    say(
        f"the state of {facts['events']:,} events is built: {facts['entities']:,} entities, "
        f"{facts['bytes'] / 1e6:.1f} MB, {facts['elapsed_s']:.1f} s"
    )
    if facts["refused"]:
        counted = ", ".join(f"{reason} {count:,}" for reason, count in facts["refused"].items())
        total = sum(facts["refused"].values())
        say(f"{total:,} records are no events and left out: {counted}; see {facts['letters']}", style="yellow")
    if begun.begins is not None:
        return
    if facts["behind"] > SUSPICIOUS_SHARE * facts["events"] and begun.arguments["order_by"] is None:
        say(
            f"{facts['behind'] / facts['events']:.0%} of the events come long after later ones: if the rows are not in "
            f"order of arrival, begin anew with --fresh --order-by {pipeline.events.time}",
            style="yellow",
        )
    if facts["latest_ms"] is not None:
        place = settings.bootstrap, pipeline.events.topic
        after = offsets_for_time(*place, facts["latest_ms"] + 1, settings.kafka_properties)
        older = sum(max(0, after.get(partition, 0) - offset) for partition, offset in begun.live.items())
        if older:
            last = datetime.fromtimestamp(facts["latest_ms"] / 1_000).astimezone().isoformat(timespec="milliseconds")
            say(
                f"up to {older:,} live records came into the topic before the last event of the files ({last}): what "
                "is in both counts twice; begin anew with --fresh and a time as --from if that is so",
                style="yellow",
            )


def _is_place_in_topic(text: str) -> bool:
    if Path(text).exists():
        return False
    if text == EARLIEST or text.isdecimal():
        return True
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


