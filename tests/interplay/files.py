"""What tests run of other clients for the Java machine: jars by locked digests in build/interplay, and Spark by pip."""

import os
from pathlib import Path

from flink_jobs.environment import PROJECT_ROOT
from flink_jobs.local.jars import ensure_jars, write_lock
from tests.benchmarks.peers import READY, Peer

JARS = PROJECT_ROOT / "build" / "interplay" / "jars"
LOCK = Path(__file__).with_name("jars.lock")
KAFKA, SPARK_VERSION = "4.2.2", "4.1.1"
SETS = {
    "kafka": (
        f"org.apache.kafka:connect-runtime:{KAFKA}",
        f"org.apache.kafka:connect-json:{KAFKA}",
        f"org.apache.kafka:connect-transforms:{KAFKA}",
        "org.apache.kafka:connect-file:4.2.0",
        f"org.apache.kafka:kafka-streams:{KAFKA}",
    ),
    "compiler": ("org.eclipse.jdt:ecj:3.40.0",),
    "spark": (f"org.apache.spark:spark-sql-kafka-0-10_2.13:{SPARK_VERSION}",),
}
SPARK = Peer("spark", (f"pyspark=={SPARK_VERSION}",), beside=())


def lock():
    """Resolve all of it again."""
    return write_lock(LOCK, SETS, {}, "tests.interplay")


def fetch(*sets):
    """The jars of some sets, fetched if they are not here yet."""
    return ensure_jars(jar_sets=sets, lock_file=LOCK, folder=JARS)


def are_here():
    """Whether nothing has to be fetched: the tests fetch nothing by themselves."""
    return (JARS / READY).exists() and (SPARK.folder / READY).exists()


def class_path(*sets):
    return os.pathsep.join(map(str, fetch(*sets)))
