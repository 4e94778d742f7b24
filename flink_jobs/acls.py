"""What each command must be allowed in Kafka, and no more, for brokers with an authorizer: `millrace doctor --acls`."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flink_jobs.topics import STREAM, Engine, group_id, requests_id, route_id, routed_topics
from udfs.lookups import table_topics
from udfs.pipeline import Pipeline

Resource = Literal["topic", "group", "transactional-id", "cluster"]


@dataclass(frozen=True)
class Acl:
    """One permission.

    Attributes:
        command: Of Millrace, which needs it.
        resource: What it is about.
        name: Of the resource; its beginning if `prefixed`.
        operation: Kafka's name of what may be done.
        prefixed: Whether it holds for all names that begin so.
    """

    command: str
    resource: Resource
    name: str
    operation: str
    prefixed: bool = False


def needed_acls(pipeline: Pipeline, engine: Engine = STREAM) -> list[Acl]:
    """All commands' permissions. To read or write implies to describe.

    Args:
        pipeline: Names topics.
        engine: What runs it.
    """
    asked = pipeline.requests_topic
    events, predictions, dead_letters = pipeline.events.topic, pipeline.predictions, str(pipeline.dead_letters)
    sources = routed_topics(pipeline, engine)
    routed = [
        *(Acl("run", "topic", topic, "Read") for topic in sources),
        *([Acl("run", "topic", events, "Write"), Acl("run", "group", route_id(pipeline), "Read")] if sources else []),
        # a run that begins without a checkpoint looks there for what was taken already
        *([Acl("run", "topic", dead_letters, "Read")] if sources else []),
    ]
    outputs, own = (predictions, dead_letters), group_id(pipeline, engine)
    tables = table_topics(pipeline.lookups)
    features = [pipeline.features_topic] if pipeline.features_topic else []
    sessions = [pipeline.sessions_topic] if pipeline.sessions_topic else []
    of_models = [each for each in (pipeline.models_topic, pipeline.models_status_topic, pipeline.shadow_topic) if each]
    run = [
        Acl("run", "topic", events, "Read"),
        *(Acl("run", "topic", name, "Write") for name in outputs),
        Acl("run", "group", own, "Read"),
        # ids are made of the prefix, a subtask's and a checkpoint's number
        Acl("run", "transactional-id", own, "Write", prefixed=True),
        # the broker's transaction.max.timeout.ms, before the start
        Acl("run", "cluster", "kafka-cluster", "DescribeConfigs"),
        *routed,
        *(Acl("run", "topic", name, "Write") for name in (*features, *sessions)),
        *([Acl("run", "topic", of_models[0], "Read")] if of_models else []),
        *(Acl("run", "topic", name, "Write") for name in of_models),
        *_request_acls(pipeline, engine),
        *(Acl("run", "topic", name, "Read") for name in tables),
    ]
    create = [
        Acl("topics create", "topic", name, operation)
        for name in (*sources, events, *outputs, *features, *sessions, *of_models, *_request_topics(pipeline), *tables)
        for operation in ("Create", "Describe", "DescribeConfigs")
    ]
    reads = {
        "watch": (predictions,),
        "verify": (events, *outputs),
        "explain": (events, *outputs),
        "fork": (events, *outputs),
        "backfill": (events, *tables),
        "transactions": (events, *outputs),
    }
    return [
        *run,
        *create,
        *([Acl("serve", "topic", asked, "Write")] if asked is not None else []),
        *([Acl("serve", "topic", pipeline.reply_topics[0], "Read")] if asked is not None else []),
        *(Acl("produce", "topic", name, "Write") for name in sources or [events]),
        *_replay_acls(events, dead_letters, f"{own}-replay"),
        *(Acl(command, "topic", name, "Read") for command, names in reads.items() for name in names),
        *(Acl("features sync", "topic", name, "Read") for name in features),
        # each store's group has a name of its own
        *(Acl("features sync", "group", f"{group_id(pipeline)}.store-", "Read", prefixed=True) for _ in features),
        Acl("transactions", "transactional-id", own, "Describe", prefixed=True),
    ]


def _request_topics(pipeline: Pipeline) -> list[str]:
    return [each for each in (pipeline.requests_topic, *pipeline.reply_topics) if each]


def _request_acls(pipeline: Pipeline, engine: Engine) -> list[Acl]:
    """What a job needs that answers requests."""
    if pipeline.requests_topic is None or engine != STREAM:
        return []
    return [
        Acl("run", "topic", pipeline.requests_topic, "Read"),
        Acl("run", "group", requests_id(pipeline), "Read"),
        *(Acl("run", "topic", name, "Write") for name in pipeline.reply_topics),
    ]


def _replay_acls(events: str, dead_letters: str, replayer: str) -> list[Acl]:
    command, marks = "dead-letters replay", f"{dead_letters}-replays"
    return [
        *(Acl(command, "topic", name, "Read") for name in (events, dead_letters, marks)),
        *(Acl(command, "topic", name, "Write") for name in (events, marks)),
        Acl(command, "topic", marks, "Create"),
        Acl(command, "transactional-id", replayer, "Write"),
    ]


def as_kafka_acls(acls: Sequence[Acl], bootstrap: str, user: str) -> list[str]:
    """The commands of Kafka's own tool that allow it, each permission once."""
    lines = []
    for acl in dict.fromkeys((a.resource, a.name, a.operation, a.prefixed) for a in acls):
        resource, name, operation, prefixed = acl
        what = ["--cluster"] if resource == "cluster" else [f"--{resource}", name]
        words = ["kafka-acls.sh", "--bootstrap-server", bootstrap, "--add", "--allow-principal", f"User:{user}"]
        words += ["--operation", operation, *what, *(["--resource-pattern-type", "prefixed"] if prefixed else [])]
        lines.append(shlex.join(words))
    return lines


def show_acls(pipeline: Pipeline, bootstrap: str, user: str | None, *, as_json: bool) -> None:
    """Print them, for each command those that it needs."""
    from flink_jobs.console import show, show_json

    acls = needed_acls(pipeline)
    if as_json:
        show_json([vars(acl) for acl in acls])
        return
    for command in dict.fromkeys(acl.command for acl in acls):
        show(f"# millrace {command}")
        show("\n".join(as_kafka_acls([acl for acl in acls if acl.command == command], bootstrap, user or "YOU")))
