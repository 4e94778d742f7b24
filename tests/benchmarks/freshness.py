"""Freshness of an online store: from producing an event to reading its features there, at a steady rate.

The job writes features and predictions, `features sync` the store. Redis is measured where there is a `redis-server`.
"""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.latency import FULL, QUICK, Variant, measure_variants

GUARANTEES = ("at-least-once", "exactly-once")


def measure(quick: bool) -> dict[str, float]:
    """Each store with each guarantee; prints a table."""
    with tempfile.TemporaryDirectory(prefix="millrace-freshness-") as folder, redis_url(Path(folder)) as redis:
        stores = {"sqlite": f"sqlite:///{folder}/{{}}.sqlite", **({"redis": redis} if redis else {})}
        variants = [
            Variant("features", guarantee, store, url.format(guarantee))
            for guarantee in GUARANTEES
            for store, url in stores.items()
        ]
        return measure_variants(variants, QUICK if quick else FULL)


@contextmanager
def redis_url(folder: Path) -> Iterator[str | None]:
    """A Redis of its own; None where there is none."""
    if shutil.which("redis-server") is None:
        print("no redis-server here: only SQLite is measured", flush=True)
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        time.sleep(1.0)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(10)
