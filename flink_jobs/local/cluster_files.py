"""The files of a local Flink cluster's folder: its configuration, and the command of each of its processes."""

import os
from pathlib import Path
from typing import Any

import yaml

from flink_jobs.environment import pyflink_folder
from flink_jobs.flink_logs import write_log_configuration
from flink_jobs.local import jars

HOST = "127.0.0.1"
FLINK = pyflink_folder()
JOBMANAGER_HEAP = "512m"
TASK_HEAP_PER_SLOT_MB = 384
MANAGED_PER_SLOT_MB = 128
METASPACE = "256m"
SESSION_TIMEOUT_S = 6
"""After so long without a sign of life from a JobManager another one leads."""

_CLASSES = {
    "zookeeper": "org.apache.flink.runtime.zookeeper.FlinkZooKeeperQuorumPeer",
    "jobmanager": "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
    "taskmanager": "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
}


def write_files(folder: Path, ports: dict[str, int], slots: int) -> None:
    """Write all configuration of a cluster.

    Args:
        folder: The cluster's.
        ports: Of `rest`, `rpc`, `blob`, `zookeeper`.
        slots: Of each TaskManager.
    """
    conf = folder / "conf"
    conf.mkdir(parents=True, exist_ok=True)
    (folder / "tmp").mkdir(exist_ok=True)
    (folder / "log").mkdir(exist_ok=True)
    (conf / "config.yaml").write_text(yaml.safe_dump(flink_configuration(folder, ports, slots)), "utf-8")
    write_log_configuration(FLINK / "conf" / "log4j-console.properties", conf)
    zookeeper = {
        "tickTime": 1000,
        "initLimit": 10,
        "syncLimit": 5,
        "dataDir": folder / "zookeeper",
        "clientPort": ports["zookeeper"],
        "clientPortAddress": HOST,
        "admin.enableServer": "false",
        "autopurge.purgeInterval": 1,
    }
    (conf / "zoo.cfg").write_text("".join(f"{name}={value}\n" for name, value in zookeeper.items()), "utf-8")
    _write_lib(folder / "lib")


def _write_lib(lib: Path) -> None:
    """Flink's jars with those of Python and Kafka, which then are loaded once and not anew for each job."""
    lib.mkdir(exist_ok=True)
    kafka = jars.ensure_jars(jar_sets=("connector", "login"))
    wanted = [*(FLINK / "lib").glob("*.jar"), *(FLINK / "opt").glob("flink-python-*.jar"), *kafka]
    for old in lib.iterdir():
        old.unlink()
    for jar in wanted:
        (lib / jar.name).symlink_to(jar.resolve())


def flink_configuration(folder: Path, ports: dict[str, int], slots: int) -> dict[str, Any]:
    """What all processes of the cluster read."""
    return {
        "env.java.opts.all": _java_options(),
        "jobmanager.rpc.address": HOST,
        "jobmanager.rpc.port": ports["rpc"],
        "jobmanager.bind-host": HOST,
        "blob.server.port": ports["blob"],
        "rest.address": HOST,
        "rest.bind-address": HOST,
        "rest.port": ports["rest"],
        "rest.bind-port": ports["rest"],
        # an upload of a jar is a way to run any code; jobs are submitted by `millrace submit`
        "web.submit.enable": False,
        "taskmanager.host": HOST,
        "taskmanager.bind-host": HOST,
        "taskmanager.numberOfTaskSlots": slots,
        **_taskmanager_memory(slots),
        # a job is spread over all TaskManagers, so that the loss of one is the loss of a part
        "taskmanager.load-balance.mode": "SLOTS",
        # without it a JobManager that dies forgets its jobs
        "high-availability.type": "zookeeper",
        "high-availability.zookeeper.quorum": f"{HOST}:{ports['zookeeper']}",
        "high-availability.zookeeper.client.session-timeout": f"{SESSION_TIMEOUT_S} s",
        "high-availability.zookeeper.client.connection-timeout": f"{SESSION_TIMEOUT_S} s",
        "high-availability.storageDir": (folder / "ha").absolute().as_uri(),
        "high-availability.jobmanager.port": str(ports["rpc"]),
        # counters are shown when they change, not ten seconds later
        "metrics.fetcher.update-interval": "1000 ms",
        "heartbeat.interval": "2 s",
        "heartbeat.timeout": "20 s",
        "io.tmp.dirs": str(folder / "tmp"),
    }


def _taskmanager_memory(slots: int) -> dict[str, str]:
    """Every size, as Flink's start script would compute it: a process started without the script must be told all."""
    network = f"{max(64, 32 * slots)}m"
    return {
        "taskmanager.cpu.cores": f"{slots}.0",
        "taskmanager.memory.task.heap.size": f"{TASK_HEAP_PER_SLOT_MB * slots}m",
        "taskmanager.memory.task.off-heap.size": "0",
        "taskmanager.memory.framework.heap.size": "128m",
        "taskmanager.memory.framework.off-heap.size": "128m",
        "taskmanager.memory.managed.size": f"{MANAGED_PER_SLOT_MB * slots}m",
        "taskmanager.memory.network.min": network,
        "taskmanager.memory.network.max": network,
        "taskmanager.memory.jvm-metaspace.size": METASPACE,
        "taskmanager.memory.jvm-overhead.min": "192m",
        "taskmanager.memory.jvm-overhead.max": "192m",
    }


def java_command(folder: Path, role: str, name: str, slots: int) -> list[str]:
    """The command of one process; it logs to `log/<name>.log`.

    Args:
        folder: The cluster's.
        role: zookeeper, jobmanager or taskmanager.
        name: Of the process.
        slots: Of a TaskManager.
    """
    conf = folder / "conf"
    options = ["-XX:-UsePerfData", "-Xshare:auto", f"-Djava.io.tmpdir={folder / 'tmp'}"]
    options += [f"-Dlog.file={folder / 'log' / (name + '.log')}", "-Dconsole.log.level=WARN"]
    options += [f"-Dlog4j.configurationFile={(conf / 'log4j-console.properties').as_uri()}"]
    if role == "taskmanager":
        heap = f"{TASK_HEAP_PER_SLOT_MB * slots + 128}m"
        direct = f"{256 + max(64, 32 * slots)}m"
        options += [f"-Xms{heap}", f"-Xmx{heap}", f"-XX:MaxDirectMemorySize={direct}"]
        options += [f"-XX:MaxMetaspaceSize={METASPACE}", "-XX:+UseG1GC"]
        arguments = ["--configDir", str(conf), "-D", f"taskmanager.resource-id={name}"]
    elif role == "jobmanager":
        # it only coordinates: the quick compiler is enough, and has it started in half the time
        options += [f"-Xmx{JOBMANAGER_HEAP}", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        arguments = ["--configDir", str(conf), "--host", HOST]
    else:
        options += ["-Xmx64m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dzookeeper.admin.enableServer=false"]
        arguments = ["--zkConfigFile", str(conf / "zoo.cfg"), "--peerId", "1"]
    classpath = os.pathsep.join(sorted(str(jar) for jar in (folder / "lib").iterdir()))
    java = str(jars.java_home() / "bin" / "java")
    return [java, *options, *_java_options().split(), "-classpath", classpath, _CLASSES[role], *arguments]


def _java_options() -> str:
    """What Flink's own configuration opens of the JDK, less modules that a JRE lacks."""
    document = yaml.safe_load((FLINK / "conf" / "config.yaml").read_text("utf-8"))
    words: list[str] = document["env"]["java"]["opts"]["all"].split()
    return " ".join(word for word in words if "=jdk.compiler/" not in word)
