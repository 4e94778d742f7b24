"""CPU seconds by whose they are: a contestant's Java machine (by hop), its Python, the broker, and all others."""

import re
from pathlib import Path

import psutil

JVM_THREADS = (
    (r"C[12] Compiler", "jvm_compiler"),
    (r"GC Thread|G1 ", "jvm_gc"),
    (r"Source|Kafka Fetcher", "jvm_source"),
    (r"Window|GlobalWindow|LocalWindow|Calc|GroupWindow", "jvm_grouping"),
    (r"score", "jvm_score_and_sink"),
    (r"grpc", "jvm_crossing"),
    (r"kafka-producer", "jvm_producer"),
    (r"rocksdb|AsyncOperations", "jvm_state"),
)


def cpu_s(contestant: int, broker: int) -> dict[str, float]:
    """CPU seconds so far of a contestant's process and its children, of the broker, and of the rest of the machine.

    `others` has what was stolen by other virtual machines, too; only its differences mean something.
    """
    spent = {"jvm": 0.0, "python": 0.0, "broker": _cpu_s_of(psutil.Process(broker))}
    root = psutil.Process(contestant)
    for one in [root, *root.children(recursive=True)]:
        try:
            is_java = one.name() == "java"
            spent["jvm" if is_java else "python"] += _cpu_s_of(one)
            if is_java:
                for kind, seconds in _cpu_s_of_threads(one).items():
                    spent[kind] = spent.get(kind, 0.0) + seconds
        except psutil.NoSuchProcess:
            continue
    spent["others"] = busy_s() - spent["jvm"] - spent["python"] - spent["broker"]
    return spent


def busy_s() -> float:
    """CPU seconds of the whole machine that were not idle."""
    times = psutil.cpu_times()
    # those of guests are in `user` already
    return times.user + times.nice + times.system + times.irq + times.softirq + times.steal


def _cpu_s_of_threads(process: psutil.Process) -> dict[str, float]:
    """By the hop that a thread works for; its name says it, of which there are 15 letters."""
    spent: dict[str, float] = {}
    for thread in process.threads():
        try:
            name = Path(f"/proc/{process.pid}/task/{thread.id}/comm").read_text("utf-8")
        except OSError:
            continue
        kind = next((kind for pattern, kind in JVM_THREADS if re.match(pattern, name)), "jvm_other")
        spent[kind] = spent.get(kind, 0.0) + thread.user_time + thread.system_time
    return spent


def _cpu_s_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
