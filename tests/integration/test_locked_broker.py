"""Kafka behind TLS and passwords: the job runs as on an open broker, and who may not come in is told why at once."""

import dataclasses
import time

import pytest
from answers import assert_dead_letters, assert_receipts, read_answers, read_events
from certificates import Authority
from locked_broker import LockedBroker
from workloads import make_topics, purchase, shoppers

from flink_jobs.events_producer import produce_events
from flink_jobs.job_run import start_job
from flink_jobs.kafka_admin import wait_for_broker
from flink_jobs.kafka_client import KafkaLoginError
from flink_jobs.preflight import PreflightError, check_kafka

pytestmark = pytest.mark.integration

WAYS = ("SCRAM-SHA-512", "SSL")
COUNT = 2_000


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    broker = LockedBroker(tmp_path_factory.mktemp("locked"))
    yield broker
    broker.end()


@pytest.mark.parametrize("way", ["PLAIN", "SCRAM-SHA-256", "OAUTHBEARER", *WAYS])
def test_every_way_in_is_open_to_librdkafka(locked, way):
    settings = locked.settings(way)
    wait_for_broker(settings.bootstrap, settings.kafka_properties, timeout_s=10.0)


@pytest.mark.parametrize("way", WAYS)
def test_job_answers_every_event_once_over_a_locked_door(locked, way, tmp_path):
    """Events come and answers leave by the locked listener; they are counted by the plain one."""
    pipeline = purchase(f"locked-{way.lower()}")
    make_topics(locked.broker, pipeline)
    settings = locked.settings(way, home=tmp_path, parallelism=1)
    records, broken = shoppers(COUNT)
    produced = produce_events(
        settings.bootstrap, pipeline.events.topic, records, None, properties=settings.kafka_properties
    )
    check_kafka(pipeline, settings)
    job = start_job(pipeline, settings)
    job.wait_until_caught_up()
    job.stop()
    events, answers = read_events(locked.broker, pipeline), read_answers(locked.broker, pipeline)
    assert len(events) == produced.records
    assert_receipts(pipeline, events, answers.predictions)
    reasons = {event.place: broken[event[1:3]] for event in events if event[1:3] in broken}
    assert_dead_letters(pipeline, events, answers.dead_letters, reasons)


def wrong_doors(locked, tmp_path):
    (tmp_path / "wrong").write_text("wrong-password")
    stranger = Authority(tmp_path / "stranger", "stranger")
    expired = locked.authority.sign("expired", days=-1)
    unknown = stranger.sign("unknown")
    return {
        "password": (locked.settings("SCRAM-SHA-512", kafka_password_file=tmp_path / "wrong"), "Authentication failed"),
        "plain password": (locked.settings("PLAIN", kafka_password_file=tmp_path / "wrong"), "Authentication failed"),
        "authority": (locked.settings("SCRAM-SHA-512", tls_ca_file=stranger.file), "certificate verify failed"),
        "host": (
            locked.settings("SCRAM-SHA-512", bootstrap=f"localhost:{locked.listeners.sasl_port}"),
            "certificate verify failed",
        ),
        "stranger": (
            locked.settings("SSL", tls_certificate_file=unknown.certificate, tls_key_file=unknown.key),
            "SSL|certificate",
        ),
        "expired": (
            locked.settings("SSL", tls_certificate_file=expired.certificate, tls_key_file=expired.key),
            "SSL|certificate",
        ),
    }


@pytest.mark.parametrize(
    "what", ["password", "plain password", "authority", "host", "stranger", "expired"]
)
def test_wrong_papers_are_named_in_one_line_and_at_once(locked, what, tmp_path):
    settings, message = wrong_doors(locked, tmp_path)[what]
    pipeline = dataclasses.replace(purchase("nobody"))
    began = time.monotonic()
    with pytest.raises(PreflightError, match=message) as refused:
        check_kafka(pipeline, settings)
    assert time.monotonic() - began < 5.0
    assert "\n" not in str(refused.value)
    assert "wrong-password" not in str(refused.value)


def test_token_that_is_not_given_is_said(locked, tmp_path):
    (tmp_path / "wrong").write_text("wrong")
    settings = locked.settings("OAUTHBEARER", kafka_password_file=tmp_path / "wrong")
    with pytest.raises(KafkaLoginError, match="token"):
        wait_for_broker(settings.bootstrap, settings.kafka_properties, timeout_s=10.0)
