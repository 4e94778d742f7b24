"""`millrace topics create`: the topics of a pipeline that do not exist yet."""

from flink_jobs.console import next_steps, say, show, show_json
from flink_jobs.kafka_admin import create_topics
from flink_jobs.local.home import connected
from flink_jobs.settings import Settings
from flink_jobs.topics import topic_specs
from udfs.durations import parse_duration
from udfs.pipeline import Pipeline


def run_topics_create_command(
    pipeline: Pipeline, name: str, settings: Settings, *, retention: str | None, add_partitions: bool, as_json: bool
) -> None:
    """Make them and say what was there."""
    retention_ms = None if retention is None else parse_duration(retention, "--retention")
    connected(settings)
    specs = topic_specs(pipeline, retention_ms)
    outcomes = create_topics(settings.bootstrap, specs, settings.kafka_properties, add_partitions=add_partitions)
    if as_json:
        show_json([vars(outcome) for outcome in outcomes])
        return
    for spec, outcome in zip(specs, outcomes, strict=True):
        added = f", {outcome.partitions_added} partitions added" if outcome.partitions_added else ""
        done = f"created with {spec.partitions} partitions" if outcome.created else f"was there{added}"
        show(f"{outcome.name}: {done}")
        for difference in outcome.differences:
            say(f"  left as it is: {difference}", style="yellow")
    first = [] if pipeline.events.sources else [(f"millrace produce {name}", "put events into it")]
    next_steps(*first, (f"millrace run {name}", "score them"))
