"""`build/bench.json`: one flat object, to which every measure adds its own figures; and the table of them."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Figure = float | str
Figures = dict[str, Figure]


class PartialError(RuntimeError):
    """A part of a measure failed; `results` has what the rest found."""

    def __init__(self, message: str, results: Mapping[str, float]) -> None:
        super().__init__(message)
        self.results = results


@dataclass(frozen=True)
class Target:
    """A figure to reach.

    Attributes:
        limit: At least this, or with `most` at most.
    """

    key: str
    label: str
    limit: float
    unit: str
    most: bool = False

    def is_reached(self, value: float) -> bool:
        return value <= self.limit if self.most else value >= self.limit


TARGETS = (
    Target("ratio_bare_loop", "against the bare loop", 1.3, "x"),
    Target("ratio_quix", "against Quix Streams, one process", 6, "x"),
    Target("ratio_per_record_process", "against per-record PyFlink, process mode", 30, "x"),
    Target("ratio_per_record_thread", "against per-record PyFlink, thread mode", 30, "x"),
    Target("ratio_beam", "against Apache Beam, one process", 2.5, "x"),
    Target("ratio_beam_workers", "against Apache Beam, a worker a core", 2.5, "x"),
    Target("ratio_sql_plain", "stateless SQL against its bare loop", 1.7, "x"),
    Target("ratio_1m_entities", "1,000,000 entities against 10,000", 0.8, "x"),
    Target("bytes_per_entity", "memory per entity", 600, " B", most=True),
    Target("latency_p50_ms", "latency p50, at least once", 50, " ms", most=True),
    Target("latency_p99_ms", "latency p99, at least once", 100, " ms", most=True),
    Target("latency_features_sqlite_p99_ms", "features readable in SQLite p99, at least once", 250, " ms", most=True),
    Target("latency_features_redis_p99_ms", "features readable in Redis p99, at least once", 250, " ms", most=True),
    Target("latency_exactly_once_p99_ms", "latency p99, exactly once", 1_150, " ms", most=True),
    Target("first_prediction_s", "first prediction, warm machine", 20, " s", most=True),
    Target("restore_1m_entities_s", "restore of 1,000,000 entities", 30, " s", most=True),
)


def machine() -> Figures:
    """What the figures were measured on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"cores": len(os.sched_getaffinity(0)), "cpu": model}


def figures_of(machine: Mapping[str, Figure], old: Mapping[str, Figure]) -> Figures:
    """The old figures with the machine's own, to add to; those that another machine measured are dropped."""
    same_machine = all(old.get(key) == value for key, value in machine.items())
    return {**machine, **(old if same_machine else {})}


def read_figures(path: Path) -> Figures:
    """What is there; nothing if there is no file."""
    figures: Figures = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return figures


def write_figures(path: Path, figures: Mapping[str, Figure]) -> None:
    """All at once: an interrupted bench leaves the last file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    temporary.replace(path)


def table(figures: Mapping[str, Figure]) -> str:
    """Every figure that has a target, beside it."""
    lines = [f"{'':42}{'measured':>12}{'to reach':>16}"]
    for target in TARGETS:
        value = figures.get(target.key)
        if isinstance(value, int | float):
            limit = f"{'at most' if target.most else 'at least'} {target.limit:,g}{target.unit}"
            verdict = "" if target.is_reached(value) else "   falls short"
            lines.append(f"{target.label:42}{f'{value:,g}{target.unit}':>12}{limit:>18}{verdict}")
    return "\n".join(lines)


# the hops of an event by the key of their microseconds; Python's are those of a batch of 500
JVM_HOPS = {
    "source": "jvm_source",
    "grouping": "jvm_grouping",
    "crossing": "jvm_crossing",
    "score and sink": "jvm_score_and_sink",
    "producer": "jvm_producer",
    "state": "jvm_state",
    "compiler": "jvm_compiler",
    "collector": "jvm_gc",
    "other": "jvm_other",
}
PYTHON_STEPS = ("decode", "columnise", "advance", "onnx", "encode", "log")


def shares(figures: Mapping[str, Figure]) -> str:
    """What share of Millrace's CPU time each hop takes; the Python steps from `stages`, the rest is crossing."""

    def us(key: str) -> float:
        return float(figures.get(key, 0.0))

    hops = {f"JVM {hop}": us(f"cpu_us_per_event_millrace_{key}") for hop, key in JVM_HOPS.items()}
    steps = {f"Python {step}": us(f"stage_us_{step}_batch_500") for step in PYTHON_STEPS}
    python_us = us("cpu_us_per_event_millrace_python")
    hops |= steps
    hops["Python crossing and rest"] = max(0.0, python_us - sum(steps.values()))
    whole_us = us("cpu_us_per_event_millrace_jvm") + python_us
    if not whole_us:
        return "no shares: the ratios were not measured"
    rows = [f"{hop:28}{spent:>8.2f} us{spent / whole_us:>8.1%}" for hop, spent in hops.items() if spent]
    return "\n".join([f"{'CPU time of an event':28}{whole_us:>8.2f} us", *rows])
