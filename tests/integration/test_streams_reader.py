"""Kafka Streams takes the topic of features for a table, with the README's lines; `make interplay` runs it."""

import subprocess

import pytest
from other_clients import JAVA, java_client, readme

from tests.interplay.files import class_path

pytestmark = pytest.mark.integration
PROGRAM = """
import java.util.*;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.kstream.*;
import org.apache.kafka.streams.state.*;
import static org.apache.kafka.streams.StoreQueryParameters.fromNameAndType;
import static org.apache.kafka.streams.state.QueryableStoreTypes.keyValueStore;

public class Features {
    public static void main(String[] arguments) {
        %s
        for (var entities = new Scanner(System.in); entities.hasNextLine();) {
            ReadOnlyKeyValueStore<String, String> now = streams.store(fromNameAndType("latest", keyValueStore()));
            System.out.println("now " + now.get(entities.nextLine()));
        }
    }
}
"""


def compiled(source, folder):
    """A class of Java; there is no javac in a Java that only runs."""
    (folder / "Features.java").write_text(source)
    command = [JAVA, "-jar", class_path("compiler"), "-17", "-cp", class_path("kafka"), "-d", "classes"]
    ran = subprocess.run([*command, "Features.java"], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_table_of_features_has_what_was_committed_and_nothing_else(interplay, served, tmp_path):
    names = {"localhost:9092": served.bootstrap, "fraud-features": served.pipeline.features_topic}
    compiled(PROGRAM % readme("Kafka Streams", **names), tmp_path)
    with java_client(["Features"], tmp_path, "classes") as table:
        changes = [tuple(line.split(" ", 1)) for line in table.lines(len(served.vectors))]
        assert sorted(changes) == sorted(served.vectors.values())
        assert dict(changes) == served.newest
        for entity in [*served.newest, "nobody"]:
            table.tell(entity)
        answers = table.lines(len(changes) + len(served.newest) + 1)[len(changes) :]
    assert answers == [f"now {value}" for value in [*served.newest.values(), "null"]]
