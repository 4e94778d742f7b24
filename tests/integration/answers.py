"""What came out of a job against what must: the events of the topic, all answers, and the naive oracle's features."""

import threading
from collections import Counter, defaultdict
from typing import NamedTuple

import msgspec
import numpy as np
from session_oracle import NaiveSessions

from flink_jobs.committed_reader import CommittedReader, read_all
from flink_jobs.training import compute_features
from udfs.key_places import key_shards
from udfs.naive_features import NaiveFeatures
from udfs.open_sessions import ClosedSession
from udfs.wire_formats import EventDecoder, Refused

SHARDS = 32
EVERY_HEADER = {"pipeline", "model", "model-version", "model-sha256", "feature-set", "topic", "partition", "offset"}


class Event(NamedTuple):
    """A record of the events topic; its place is (partition, offset)."""

    place: tuple[int, int]
    key: bytes | None
    value: bytes | None
    time_ms: int


class Answer(NamedTuple):
    """A prediction or a dead letter; `at` is where it lies itself, (partition, offset)."""

    place: tuple[int, int]
    at: tuple[int, int]
    key: bytes | None
    value: bytes | None
    headers: dict[str, str]

    @property
    def body(self):
        return msgspec.json.decode(self.value)


class Answers(NamedTuple):
    """Answers by the place of their event, each exactly once; (n,) places may repeat only where a test failed."""

    predictions: dict[tuple[int, int], Answer]
    dead_letters: dict[tuple[int, int], Answer]


def _answer(message):
    headers = [(name.removeprefix("millrace-"), value.decode()) for name, value in message.headers()]
    assert len(dict(headers)) == len(headers)
    found = dict(headers)
    place = (int(found["partition"]), int(found["offset"]))
    return Answer(place, (message.partition(), message.offset()), message.key(), message.value(), found)


def answers_in(messages, pipeline):
    """The messages as answers; fails when an event has two."""
    found = [(message.topic(), _answer(message)) for message in messages]
    twice = [place for place, times in Counter(answer.place for _, answer in found).items() if times > 1]
    assert not twice, f"{len(twice)} events have more than one answer: {sorted(twice)[:5]}"
    return Answers(*({a.place: a for t, a in found if t == topic} for topic in outputs_of(pipeline)))


def outputs_of(pipeline):
    return pipeline.predictions, pipeline.dead_letters


def read_answers(broker, pipeline):
    """What a reader sees that comes afterwards."""
    return answers_in(read_all(broker.bootstrap, outputs_of(pipeline)), pipeline)


def read_vectors(broker, pipeline):
    """The feature vectors by the place of their event; fails when an event has two."""
    found = [_answer(message) for message in read_all(broker.bootstrap, [pipeline.features_topic])]
    vectors = {vector.place: vector for vector in found}
    assert len(vectors) == len(found)
    return vectors


def read_sessions(broker, pipeline):
    """The committed sessions that are over, in order of each partition."""
    found = []
    for message in read_all(broker.bootstrap, [pipeline.sessions_topic]):
        body, headers = msgspec.json.decode(message.value()), dict(message.headers())
        entity = str(body[pipeline.events.entity])
        assert message.key() == entity.encode()
        partition = int(headers["millrace-partition"])
        times = body["first_event_at"], body["last_event_at"]
        found.append(ClosedSession(entity, None, partition, *times, body["events"], body["late"]))
    return found


def sessions_by_the_oracle(pipeline, events):
    """The sessions that the events of a topic close, and those that stay open; one oracle a shard."""
    decode, wanted = EventDecoder(pipeline).decode, pipeline.sessions
    oracles, closed = {}, []
    for event in events:
        decoded = decode(event.key, event.value)
        if isinstance(decoded, Refused):
            continue
        entity = str(getattr(decoded, pipeline.events.entity))
        shard = int(key_shards([entity], SHARDS)[0])
        oracle = oracles.setdefault(shard, NaiveSessions(wanted.gap_ms, wanted.lateness_ms))
        time_ms = int(pipeline.events.times_ms([getattr(decoded, pipeline.events.time)])[0])
        closed += oracle.advance(entity, time_ms, event.time_ms, event.place[0])
    return closed, [each for oracle in oracles.values() for each in oracle.still_open()]


def read_events(broker, pipeline):
    """Everything in the events topic, partition by partition in order."""
    messages = read_all(broker.bootstrap, [pipeline.events.topic])
    return sorted(
        Event((m.partition(), m.offset()), m.key(), m.value() and bytes(m.value()), m.timestamp()[1]) for m in messages
    )


class LiveReader:
    """A read_committed reader that runs beside the job from before its start, as a user's consumer would."""

    def __init__(self, broker, pipeline):
        self.messages = []
        self._pipeline, self._stop, self._failure = pipeline, threading.Event(), None
        self._reader = CommittedReader(broker.bootstrap, outputs_of(pipeline))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        try:
            while not self._stop.is_set() or not self._reader.at_end:
                self.messages += self._reader.read(0.1)
        except Exception as error:
            self._failure = error

    def wait_for(self, count, timeout_s=120.0, job=None):
        """Wait until so many answers were seen."""
        waited = threading.Event()
        for _ in range(int(timeout_s / 0.1)):
            assert self._failure is None, self._failure
            if len(self.messages) >= count:
                return
            waited.wait(0.1)
        cause = job.checkpoints()["failure"] if job else None
        raise AssertionError(f"{len(self.messages)} answers within {timeout_s:g} s, not {count}: {cause}")

    def answers(self):
        """Stop at the end of what is visible; what was seen."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert self._failure is None, self._failure
        return answers_in(self.messages, self._pipeline)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(60)
        self._reader.close()


class Expected(NamedTuple):
    """What must come out: the oracle's features and lateness by place, and the decoded events."""

    features: dict[tuple[int, int], list[float]]
    late: set[tuple[int, int]]
    events: dict[tuple[int, int], object]


def expected_of(pipeline, events, *, every=1):
    """The oracle on the events of a topic: one oracle a shard, because each has clocks of its own.

    Args:
        pipeline: What was computed.
        events: In order of each partition.
        every: Features only of every so many events: the oracle scans all that came before, for every feature.
    """
    decode = EventDecoder(pipeline).decode
    oracles = {}
    expected = Expected({}, set(), {})
    for number, event in enumerate(events):
        decoded = decode(event.key, event.value)
        if isinstance(decoded, Refused):
            continue
        shard = int(key_shards([event.key.decode()], SHARDS)[0])
        if shard not in oracles:
            oracles[shard] = NaiveFeatures(pipeline)
        oracle = oracles[shard]
        wanted = number % every == 0
        features, late = oracle.advance(decoded, event.time_ms, event.place[0], wanted=wanted)
        expected.events[event.place] = decoded
        if wanted:
            expected.features[event.place] = features
        if late:
            expected.late.add(event.place)
    return expected


def assert_features_equal(pipeline, predictions, expected):
    """Every prediction's features equal the oracle's: counts and times to the bit, sums but for rounding."""
    places = [place for place in expected.features if place in predictions]
    assert places
    found = feature_matrix(pipeline, [predictions[place] for place in places])
    wanted = np.array([expected.features[place] for place in places])
    for column, name in enumerate(pipeline.feature_names):
        exact = any(word in name for word in ("count", "distinct", "since_last", "_is_"))
        tolerance = 0 if exact else 1e-9
        np.testing.assert_allclose(found[:, column], wanted[:, column], rtol=tolerance, atol=tolerance, err_msg=name)


def feature_matrix(pipeline, predictions):
    """(n, features) of predictions that carry their features; null is NaN."""
    bodies = [answer.body["features"] for answer in predictions]
    assert all(tuple(body) == pipeline.feature_names for body in bodies)
    return np.array([list(body.values()) for body in bodies], np.float64)


def assert_as_uninterrupted(pipeline, events, predictions):
    """Every prediction's features equal, to the last bit, those of one computation over all events without a job."""
    lanes, scored = defaultdict(list), []
    shards = key_shards([(event.key or b"").decode("utf-8", "replace") for event in events], SHARDS)
    for event, shard in zip(events, shards.tolist(), strict=True):
        lanes[event.place[0], shard].append(event)
    for lane in lanes.values():  # each has a clock of its own
        rows = compute_features(pipeline, [(event.key, event.value) for event in lane])
        scored += [(lane[at].place, row) for at, row in zip(rows.places.tolist(), rows.features, strict=True)]
    scored = [(place, row) for place, row in scored if place in predictions]
    assert len(scored) == len(predictions)
    found = feature_matrix(pipeline, [predictions[place] for place, _ in scored])
    np.testing.assert_array_equal(found, np.array([row for _, row in scored]))


def assert_receipts(pipeline, events, predictions, late=frozenset()):
    """Every prediction says where it comes from and what made it, and carries its event's id, entity and key."""
    by_place = {event.place: event for event in events}
    for place, answer in predictions.items():
        event, body, headers = msgspec.json.decode(by_place[place].value), answer.body, answer.headers
        for name in (pipeline.events.id, pipeline.events.entity):
            assert body[name] == event[name]
        assert answer.key == by_place[place].key == str(event[pipeline.events.entity]).encode()
        assert set(headers) - {"flags"} == EVERY_HEADER | {"event-time"}
        assert headers["topic"] == pipeline.events.topic
        assert headers["pipeline"] == pipeline.name
        assert (headers["model"], headers["model-version"]) == (pipeline.model.name, str(pipeline.model.version))
        assert int(headers["event-time"]) == event[pipeline.events.time]
        assert headers.get("flags", "") == ("late" if place in late else "")


def assert_dead_letters(pipeline, events, dead_letters, reasons):
    """Every broken record, and nothing else, is a dead letter with its reason, its place and its own bytes.

    Args:
        pipeline: Whose dead letters.
        events: The topic.
        dead_letters: What came out.
        reasons: Reason of each broken event by place.
    """
    assert {place: answer.headers["reason"] for place, answer in dead_letters.items()} == reasons
    by_place = {event.place: event for event in events}
    for place, answer in dead_letters.items():
        event, headers = by_place[place], answer.headers
        value, most = event.value or b"", pipeline.max_record_bytes
        assert (answer.value or b"") == value[:most]
        assert headers.get("cut-from-bytes") == (str(len(value)) if len(value) > most else None)
        assert (answer.key or b"") == (event.key or b"")
        assert headers["topic"] == pipeline.events.topic
        assert headers["stage"] == ("model" if headers["reason"] == "model_failed" else "decode")
        assert headers["exception"]
        assert headers["pipeline"] == pipeline.name


def assert_entity_order(pipeline, predictions):
    """The predictions of an entity lie in the order of its events."""
    lanes = {}
    for answer in predictions.values():
        lanes.setdefault((answer.key, answer.place[0]), []).append(answer)
    for answers in lanes.values():
        answers.sort(key=lambda answer: answer.place)
        assert len({answer.at[0] for answer in answers}) == 1, "an entity's predictions share a partition"
        assert [answer.at for answer in answers] == sorted(answer.at for answer in answers)
