"""Python clients of others read what a job wrote, with the lines that the README shows."""

import pytest
from other_clients import HIDDEN, python_client, readme

pytestmark = pytest.mark.integration
ISOLATION = 'isolation_level="read_committed", '


def client_of(title, served, folder, **changes):
    """The README's lines for the served predictions, in a group of its own."""
    names = {"localhost:9092": served.bootstrap, "fraud-predictions": served.pipeline.predictions}
    group = {'"alerts"': f'"{title}-{len(changes)}"'}
    return python_client(readme(title, **names, **group, **changes), folder)


def printed(line):
    """Key, model's version and value of a record."""
    return tuple(line.split(" ", 2))


@pytest.mark.parametrize("title", ["kafka-python", "confluent-kafka"])
def test_it_sees_what_was_committed_and_nothing_else(title, served, tmp_path):
    with client_of(title, served, tmp_path) as client:
        found = [printed(line) for line in client.lines(len(served.predictions))]
    assert {version for _, version, _ in found} == {str(served.pipeline.model.version)}
    assert sorted((key, value) for key, _, value in found) == sorted(served.predictions.values())


def test_kafka_python_left_to_its_default_sees_what_was_never_committed(served, tmp_path):
    hidden = len(HIDDEN) * served.pipeline.events.partitions
    with client_of("kafka-python", served, tmp_path, **{ISOLATION: ""}) as client:
        assert len(client.lines(len(served.predictions) + hidden)) == len(served.predictions) + hidden
