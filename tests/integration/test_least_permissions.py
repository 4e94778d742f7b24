"""With an authorizer: a job runs with just the permissions that `doctor --acls` prints, and without any of them not."""

import time

import pytest
from answers import read_answers, read_events
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)
from locked_broker import USER, LockedBroker
from workloads import make_topics, purchase, shoppers

from flink_jobs.acls import needed_acls
from flink_jobs.events_producer import produce_events
from flink_jobs.job_run import JobFailedError, start_job
from flink_jobs.kafka_client import KafkaAdminError
from flink_jobs.preflight import PreflightError, check_kafka
from udfs.pipeline import Requests, Sessions

pytestmark = pytest.mark.integration

KINDS = {
    "topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "transactional-id": ResourceType.TRANSACTIONAL_ID,
    "cluster": ResourceType.BROKER,
}  # fmt: skip
OPERATIONS = {"Read": AclOperation.READ, "Write": AclOperation.WRITE, "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS}
PIPELINE = purchase("allowed", features_topic="allowed-features", requests=Requests(), sessions=Sessions())
RUN = [acl for acl in needed_acls(PIPELINE) if acl.command == "run"]


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    broker = LockedBroker(tmp_path_factory.mktemp("locked"), acls=True)
    make_topics(broker.broker, PIPELINE)
    produce_events(broker.broker.bootstrap, PIPELINE.events.topic, shoppers(500)[0])
    yield broker
    broker.end()


def allow(locked, acls):
    """Let the user do just that."""
    client = locked.admin.client
    everything = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{USER}", None, AclOperation.ANY, AclPermissionType.ANY
    )
    for future in client.delete_acls([everything]).values():
        future.result(15)
    bindings = [
        AclBinding(
            KINDS[acl.resource], acl.name,
            ResourcePatternType.PREFIXED if acl.prefixed else ResourcePatternType.LITERAL,
            f"User:{USER}", "*", OPERATIONS[acl.operation], AclPermissionType.ALLOW,
        )
        for acl in acls
    ]  # fmt: skip
    for future in client.create_acls(bindings).values():
        future.result(15)


def run(locked, folder):
    settings = locked.settings("SCRAM-SHA-512", home=folder, parallelism=1)
    check_kafka(PIPELINE, settings)
    job = start_job(PIPELINE, settings)
    try:
        job.wait_until_caught_up()
        job.stop()
    except KafkaAdminError:
        job.cancel()
        raise


def test_job_runs_with_just_what_is_printed(locked, tmp_path):
    allow(locked, RUN)
    run(locked, tmp_path)
    answers = read_answers(locked.broker, PIPELINE)
    places = {event.place for event in read_events(locked.broker, PIPELINE)}
    assert answers.predictions.keys() | answers.dead_letters.keys() == places


@pytest.mark.parametrize("missing", RUN, ids=lambda acl: f"{acl.operation}-{acl.resource}-{acl.name}")
def test_job_does_not_run_without_one_of_them(locked, tmp_path, missing):
    allow(locked, [acl for acl in RUN if acl != missing])
    began = time.monotonic()
    with pytest.raises((PreflightError, JobFailedError, KafkaAdminError), match=r"(?i)authoriz|exist|acls") as refused:
        run(locked, tmp_path)
    assert "\n" not in str(refused.value)
    # only who may write under a transactional id is known no sooner than when the job has started
    assert time.monotonic() - began < 5.0 or missing.resource == "transactional-id"
