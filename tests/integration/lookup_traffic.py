"""Views of products whose rows change meanwhile, and which row each view must see."""

import random
import threading
import time
from types import SimpleNamespace

import msgspec
from confluent_kafka import Producer
from workloads import START_MS

from flink_jobs.committed_reader import read_all
from udfs.lookup_join import places_told

PRODUCTS, USERS, STEP_MS = 40, 12, 50


class Shop:
    """Producers of views and of products, whose prices say how often they changed; each in step with its own time."""

    def __init__(self, broker, pipeline):
        self._producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 1})
        self._pipeline, self._rng, self.now_ms = pipeline, random.Random(4), START_MS
        self.views = self.generation = 0

    def view(self, count=1, users=USERS):
        for _ in range(count):
            self.now_ms += STEP_MS
            self.views += 1
            item = f"p{self._rng.randrange(PRODUCTS + 3)}" if self._rng.random() < 0.95 else None
            user = f"u{self._rng.randrange(users)}"
            event = {"view_id": f"v{self.views}", "user": user, "item": item, "at": self.now_ms}
            self._producer.produce(self._pipeline.events.topic, msgspec.json.encode(event), user)
            self._producer.poll(0)

    def change(self, names=None):
        """A newer version of some products, all valid from now on; one in ten is deleted."""
        self.now_ms += STEP_MS
        self.generation += 1
        for number in range(PRODUCTS) if names is None else names:
            row = {"product": f"p{number}", "price": self.generation + number / 64, "changed_at": self.now_ms}
            row["kind"] = self._rng.choice(["book", "toy", None])
            row["taste"] = [self._rng.random() for _ in range(3)] if self._rng.random() < 0.9 else None
            value = None if self.generation > 1 and number % 10 == 3 else msgspec.json.encode(row)
            topic = self._pipeline.lookups[0].topic
            self._producer.produce(topic, value, f"p{number}", timestamp=self.now_ms)
        self._producer.produce(topic, b"{", "broken", timestamp=self.now_ms)
        self.flush()

    def flush(self):
        assert self._producer.flush(30) == 0


class Traffic(threading.Thread):
    """Views, and now and then newer products, until told to stop."""

    def __init__(self, shop):
        super().__init__(daemon=True)
        self._shop, self._stopped, self.begun = shop, threading.Event(), shop.views
        self.start()

    def run(self):
        turn = 0
        while not self._stopped.wait(0.02):
            self._shop.view(4)
            turn += 1
            if turn % 20 == 0:
                self._shop.change(range(turn % 7, PRODUCTS, 7))

    def wait_for(self, more, timeout_s=60.0):
        goal, deadline = self._shop.views + more, time.monotonic() + timeout_s
        while self._shop.views < goal:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def end(self):
        self._stopped.set()
        self.join(60)
        self._shop.flush()


def versions_in(broker, pipeline):
    """By place of its record: key, time and row of each version, None where it was deleted."""
    found, lookup = {}, pipeline.lookups[0]
    for message in read_all(broker.bootstrap, [lookup.topic]):
        key, value = message.key().decode(), message.value()
        if value != b"{":
            row = None if value is None else SimpleNamespace(**msgspec.json.decode(value))
            time_ms = message.timestamp()[1] if row is None else row.changed_at
            found[message.partition(), message.offset()] = key, time_ms, row
    return found


def timely(versions, key, as_of_ms):
    """The place of the version of a row as of a time, by definition; None where there is none."""
    seen = [(time_ms, place) for place, (of, time_ms, _) in versions.items() if of == key and time_ms <= as_of_ms]
    place = max(seen)[1] if seen else None
    return None if place is None or versions[place][2] is None else place


def places_in(answers):
    """Of each event, the place of the product's row that it saw."""
    return [(place, places_told(each.headers["lookups"])["products"]) for place, each in answers.predictions.items()]


def kill_workers_under(traffic, job, settings, before, after):
    """So many views, then SIGKILL every worker, then so many more; at the end all are answered."""
    traffic.wait_for(before)
    job.kill_workers(settings.parallelism)
    traffic.wait_for(after)
    traffic.end()
    job.catch_up()
