"""A worker of Kafka Connect brings events and takes predictions away, as the README says; `make interplay` runs it."""

import dataclasses

import msgspec
import pytest
from jobs import JobProcess
from other_clients import java_client, readme
from wire_features import shopper_lines
from workloads import START_MS, make_topics, purchase, settings_of

from flink_jobs.committed_reader import read_all
from udfs.pipeline import Source

pytestmark = pytest.mark.integration
EVENTS, VISITORS = 60, 12
CONNECT = "org.apache.kafka.connect"
ENVELOPES = f"""
name=envelopes
connector.class={CONNECT}.file.FileStreamSourceConnector
file=visitors.txt
topic=visits
transforms=user,page,time,key,entity
transforms.user.type={CONNECT}.transforms.HoistField$Value
transforms.user.field=user_id
transforms.page.type={CONNECT}.transforms.InsertField$Value
transforms.page.static.field=page_id
transforms.page.static.value=checkout
transforms.time.type={CONNECT}.transforms.InsertField$Value
transforms.time.timestamp.field=timestamp
transforms.key.type={CONNECT}.transforms.ValueToKey
transforms.key.fields=user_id
transforms.entity.type={CONNECT}.transforms.ExtractField$Key
transforms.entity.field=user_id
"""
"""Names in a file become rows with a schema, as the connector of a database gives them; their key is the name."""


def connected():
    """The shipped pipeline, with what two connectors write as its sources."""
    fields = {name: f"payload.{name}" for name in ("user_id", "page_id", "timestamp")}
    rows = Source("visits", fields={**fields, "event_id": "@place"}, constants={"dwell_time_sec": 8.0})
    pipeline = purchase("connected")
    events = dataclasses.replace(pipeline.events, sources=[Source("payment-lines"), rows])
    return dataclasses.replace(pipeline, events=events)


def test_events_come_and_predictions_go_by_connect(interplay, broker, served, tmp_path):
    pipeline = connected()
    make_topics(broker, pipeline)
    lines, visitors = [value for _, value in shopper_lines(EVENTS, START_MS)], [f"v{n}" for n in range(VISITORS)]
    (tmp_path / "payments.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    (tmp_path / "visitors.txt").write_text("".join(f"{name}\n" for name in visitors))
    topics = f"{served.pipeline.predictions},{pipeline.predictions}"
    files = {
        "worker": readme("worker.properties", **{"localhost:9092": served.bootstrap}) + "listeners=http://127.0.0.1:0\n",
        "payments": readme("payments.properties"),
        "visits": ENVELOPES,
        "scores": readme("scores.properties", **{"fraud-predictions": topics}),
    }
    for name, text in files.items():
        (tmp_path / f"{name}.properties").write_text(text)
    command = [f"{CONNECT}.cli.ConnectStandalone", *(f"{name}.properties" for name in files)]
    scores = tmp_path / "scores.jsonl"
    with (
        java_client(command, tmp_path) as worker,
        JobProcess(pipeline, settings_of(broker, tmp_path / "home"), tmp_path / "job") as job,
    ):
        job.wait_for("running")
        wanted = len(served.predictions) + EVENTS + VISITORS
        worker.wait_until(lambda: scores.exists() and scores.read_bytes().count(b"\n") >= wanted, "all scores", 120)
        job.catch_up()
        job.stop()
    envelopes = [(each.key(), msgspec.json.decode(each.value())) for each in read_all(served.bootstrap, ["visits"])]
    assert {body["schema"]["type"] for _, body in envelopes} == {"struct"}
    assert sorted(key.decode() for key, _ in envelopes) == sorted(visitors)
    found = scores.read_text().splitlines()
    mine = [each.value().decode() for each in read_all(served.bootstrap, [pipeline.predictions])]
    assert sorted(found) == sorted([*mine, *(value for _, value in served.predictions.values())])
    events = [msgspec.json.decode(line) for line in lines]
    wanted = sorted([*visitors, *(event["user_id"] for event in events)])
    bodies = [msgspec.json.decode(each) for each in mine]
    assert sorted(body["user_id"] for body in bodies) == wanted
    assert {event["event_id"] for event in events} < {body["event_id"] for body in bodies}
