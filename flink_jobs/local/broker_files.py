"""The files of a local broker's folder: its settings, the command that starts it, what its logs say went wrong."""

import base64
import os
import subprocess
import uuid
from pathlib import Path

from flink_jobs.local import jars, processes
from flink_jobs.local.broker_listeners import LockedListeners
from flink_jobs.local.log_lines import size, telling_line

HOST = "127.0.0.1"
FORMAT_WAIT_S = 60.0
HEAP_MIN, HEAP_MAX = "256m", "768m"
# The quick compiler only: half the CPU of a start, and no more CPU per record than the optimising one (measured).
JAVA_OPTIONS = (
    "-XX:TieredStopAtLevel=1",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    "-XX:-UsePerfData",
    "-Xshare:auto",
)

SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
# One node: nothing can be replicated, and nothing may wait for a second replica.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# Small files, so that retention frees space and a folder in a test stays small.
log.segment.bytes=67108864
log.index.size.max.bytes=1048576
log.preallocate=false
log.cleaner.dedupe.buffer.size=8388608
# A killed broker may register again only when its old session has run out: 9 s by default.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=300
"""

LOG_PROPERTIES = """\
status=error
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName={log_file}
appender.file.filePattern={log_file}.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{{ISO8601}} %p %m (%c)%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=10MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=2
# Four listings of every setting there is, at each start, say nothing that server.properties does not.
logger.config.name=org.apache.kafka.common.config.AbstractConfig
logger.config.level=warn
logger.server.name=kafka.server.KafkaConfig
logger.server.level=warn
rootLogger.level=info
rootLogger.appenderRef.file.ref=file
"""


class BrokerError(RuntimeError):
    """The local broker could not be started or stopped; the message names its log and the line that explains."""


def java_command(folder: Path, port: int, controller_port: int, locked: LockedListeners | None) -> list[str]:
    """Write the settings into the folder, and return the Java command up to the class to run."""
    classpath = os.pathsep.join(map(str, jars.broker_classpath()))
    names = {"host": HOST, "port": port, "controller_port": controller_port, "data": folder / "data"}
    text, more_options = SERVER_PROPERTIES.format(**names), []
    if locked is not None:
        more = locked.server_properties(HOST, port, controller_port)
        more_options = [locked.java_option]
        kept = [line for line in text.splitlines() if line.partition("=")[0] not in more]
        text = "".join(f"{line}\n" for line in (*kept, *(f"{name}={value}" for name, value in more.items())))
    properties = folder / "server.properties"
    properties.touch(mode=0o600)
    properties.write_text(text, "utf-8")
    (folder / "log4j2.properties").write_text(LOG_PROPERTIES.format(log_file=folder / "broker.log"), "utf-8")
    (folder / "tmp").mkdir(exist_ok=True)
    logging = f"-Dlog4j2.configurationFile={(folder / 'log4j2.properties').as_uri()}"
    temporary = f"-Djava.io.tmpdir={folder / 'tmp'}"
    return [str(jars.java_home() / "bin" / "java"), *JAVA_OPTIONS, *more_options, logging, temporary, "-cp", classpath]


def format_data(folder: Path, java: list[str]) -> None:
    """Make the folder's data a Kafka log directory of a new cluster."""
    log_start = size(folder / "broker.log")
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes)[:22].decode().replace("-", "x")
    arguments = ["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(folder / "server.properties")]
    with (folder / "broker.err").open("wb") as err:
        process = processes.launch([*java, *arguments], folder, err, die_with_parent=True)
    try:
        failed = process.wait(FORMAT_WAIT_S) != 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        failed = True
    if failed:
        raise BrokerError(f"the broker's folder could not be formatted: {explanation(folder, log_start)}")


def explanation(folder: Path, log_start: int) -> str:
    """The last line that tells of an error, and the file it is in."""
    return telling_line((folder / "broker.log", log_start), (folder / "broker.err", 0))
