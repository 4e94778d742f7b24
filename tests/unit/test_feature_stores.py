"""Online stores: an entity's row is that of its newest event, whatever comes again, late or from two writers."""

import dataclasses
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from certificates import Authority
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from redis_server import RedisServer
from wire_records import PURCHASE

from flink_jobs.console import CommandError
from flink_jobs.feature_store import (
    FeatureRow,
    StoreRefusedError,
    StoreUnavailableError,
    open_store,
    sqlite_path,
    store_url,
    ttl_ms,
)
from flink_jobs.settings import Settings, SettingsError, load_settings
from flink_jobs.store_sync import AHEAD_MS, FeatureRows
from udfs.feast_layout import FeastLayout, read_value, timestamp_bytes
from udfs.pipeline import Value

PIPELINE = dataclasses.replace(PURCHASE, features_topic="purchase-features")
LAYOUT = FeastLayout.of(PIPELINE)
NAMES = PIPELINE.feature_names
NOW_MS = 1_800_000_000_000


def row(entity, event_ms, offset, number):
    """A row whose features are number, number + 1, …; the last one is missing."""
    values = {name: number + place for place, name in enumerate(NAMES[:-1])}
    return FeatureRow(LAYOUT.entity_key(entity), event_ms, offset, LAYOUT.packed(values))


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(params=["sqlite", "redis"])
def opened(request, tmp_path):
    """Opens the same empty store, again and again."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'stores' / 'features.sqlite'}"
    else:
        server = request.getfixturevalue("redis_server")
        server.client.flushall()
        url = server.url
    stores = []

    def open_it(**options):
        stores.append(open_store(PIPELINE, Settings(), url, **options))
        return stores[-1]

    open_it.url = url
    yield open_it
    for store in stores:
        store.close()


def test_what_was_written_is_read_back_by_another_process(opened):
    assert opened().write([row("u1", 5_000, 7, 0.1), row("u2", 6_000, 8, -1.0)], NOW_MS) == 2
    first, nobody, second = opened().read(["u1", "u3", "u2"], NOW_MS)
    assert nobody is None
    assert (first.event_ms, first.offset, second.event_ms, second.offset) == (5_000, 7, 6_000, 8)
    assert list(first.values) == list(NAMES)
    assert first.values == {name: 0.1 + n for n, name in enumerate(NAMES[:-1])} | {NAMES[-1]: None}


def test_a_value_that_is_missing_now_does_not_keep_its_old_one(opened):
    store = opened()
    full = {name: 1.0 for name in NAMES}
    store.write([FeatureRow(LAYOUT.entity_key("u"), 1, 1, LAYOUT.packed(full))], NOW_MS)
    store.write([FeatureRow(LAYOUT.entity_key("u"), 2, 2, LAYOUT.packed({NAMES[0]: 2.0}))], NOW_MS)
    assert store.read(["u"], NOW_MS)[0].values == {name: None for name in NAMES} | {NAMES[0]: 2.0}


def test_older_rows_change_nothing_and_the_same_one_may_come_again(opened):
    store = opened()
    assert store.write([row("u", 5_000, 7, 1)], NOW_MS) == 1
    assert store.write([row("u", 4_999, 9, 2)], NOW_MS) == 0, "an older event, whatever its offset"
    assert store.write([row("u", 5_000, 6, 3)], NOW_MS) == 0, "of two at one time the later one in the topic"
    assert store.read(["u"], NOW_MS)[0].values[NAMES[0]] == 1
    assert store.write([row("u", 5_000, 7, 4)], NOW_MS) == 1, "the same event computed again"
    assert store.write([row("u", 5_000, 8, 5)], NOW_MS) == 1
    assert store.read(["u"], NOW_MS)[0].values[NAMES[0]] == 5


ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(-3, 3), st.integers(0, 5)), max_size=30)


@examples(15)
@given(history=ROWS, again=st.integers(0, 30))
def test_any_order_and_any_replay_ends_with_the_newest(tmp_path_factory, redis_server, history, again):
    redis_server.client.flushall()
    path = tmp_path_factory.mktemp("stores") / "features.sqlite"
    rows = [row(entity, time, offset, 10 * time + offset) for entity, time, offset in history]
    newest = {}
    for entity, time, offset in history:
        newest[entity] = max(newest.get(entity, (-9, 0)), (time, offset))
    for url in (f"sqlite:///{path}", redis_server.url):
        store = open_store(PIPELINE, Settings(), url)
        for one in [*rows, *rows[:again]]:
            store.write([one], NOW_MS)
        found = store.read(list(newest), NOW_MS)
        assert [(each.event_ms, each.offset) for each in found] == list(newest.values())
        assert [each.values[NAMES[0]] for each in found] == [10 * t + o for t, o in newest.values()]
        store.close()


def test_many_entities_go_in_one_call(opened):
    store = opened()
    rows = [row(f"u{n}", 1_000 + n, n, n) for n in range(1_003)]
    assert store.write(rows, NOW_MS) == 1_003
    assert [each.values[NAMES[0]] for each in store.read([f"u{n}" for n in (0, 500, 1_002)], NOW_MS)] == [0, 500, 1_002]
    assert store.write([*rows[:600], row("new", 1, 1, 1)], NOW_MS) == 601


def test_two_writers_at_once_leave_the_newest(opened):
    numbers = list(range(200))

    def write(part):
        store = open_store(PIPELINE, Settings(), opened.url)
        for number in part:
            store.write([row("u", number, number, number)], NOW_MS)
        store.close()
        return True

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(write, (numbers[::2], numbers[1::2][::-1])))
    assert opened().read(["u"], NOW_MS)[0].values[NAMES[0]] == 199


def test_rows_go_when_their_time_has_come(tmp_path, redis_server):
    redis_server.client.flushall()
    path = tmp_path / "f.sqlite"
    store = open_store(PIPELINE, Settings(), f"sqlite:///{path}", keep_ms=10_000)
    store.write([row("old", 1_000, 1, 1)], NOW_MS)
    assert store.read(["old"], NOW_MS + 9_999)[0] is not None
    assert store.read(["old"], NOW_MS + 10_000)[0] is None
    store.write([row("new", 1_000, 1, 1)], NOW_MS + 100_000)
    with sqlite3.connect(path) as connection:
        for table in (LAYOUT.table, f"millrace_{LAYOUT.view}"):
            keys = {key for (key,) in connection.execute(f"SELECT entity_key FROM {table}")}
            assert keys == {LAYOUT.entity_key("new")}
    store.close()
    other = open_store(PIPELINE, Settings(), redis_server.url, keep_ms=10_000)
    other.write([row("u", 1_000, 1, 1)], NOW_MS)
    key = LAYOUT.entity_key("u") + LAYOUT.project.encode()
    assert 9_000 < redis_server.client.pttl(key) <= 10_000
    other.close()


def test_rows_are_kept_as_long_as_the_job_keeps_an_entity_unless_said_otherwise():
    assert ttl_ms(PIPELINE, None) == PIPELINE.retention_ms > 0
    assert ttl_ms(PIPELINE, 0) is None
    assert ttl_ms(PIPELINE, 86_400_000) == 86_400_000
    without = dataclasses.replace(PIPELINE, features=[Value("dwell_time_sec")])
    assert ttl_ms(without, None) is None


def test_a_store_remembers_what_it_has_been_filled_with(opened):
    store = opened()
    assert store.filled_partitions("t") == set()
    store.note_filled("t", [0, 2])
    store.note_filled("t", [2])
    assert opened().filled_partitions("t") == {0, 2}
    assert opened().filled_partitions("other") == set()


def test_a_redis_that_is_gone_or_full_is_asked_again_later(tmp_path):
    server = RedisServer(tmp_path)
    store = open_store(PIPELINE, Settings(), server.url)
    server.client.config_set("maxmemory", "1mb")
    many = [row(f"u{n}", 1, 1, 1) for n in range(20_000)]
    with pytest.raises(StoreUnavailableError, match="takes nothing now"):
        store.write(many, NOW_MS)
    server.kill()
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        store.write([row("u", 1, 1, 1)], NOW_MS)
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        open_store(PIPELINE, Settings(), server.url)
    server.start()
    assert store.write([row("u", 1, 1, 1)], NOW_MS) == 1, "the same connection goes on"
    server.kill()


def test_a_password_comes_from_a_file_and_is_in_no_message(tmp_path):
    server = RedisServer(tmp_path, password="planted-secret")
    with pytest.raises(StoreRefusedError, match="does not let us in"):
        open_store(PIPELINE, Settings(), server.url)
    file = tmp_path / "password"
    file.write_text("wrong-secret\n")
    with pytest.raises(StoreRefusedError, match="feature_store_password_file") as refused:
        open_store(PIPELINE, Settings(feature_store_password_file=file), server.url)
    assert "wrong-secret" not in str(refused.value)
    file.write_text("planted-secret\n")
    store = open_store(PIPELINE, Settings(feature_store_password_file=file), server.url)
    assert store.write([row("u", 1, 1, 1)], NOW_MS) == 1
    store.close()
    server.kill()


def test_a_redis_with_tls_is_known_by_its_certificate_and_asks_for_ours(tmp_path):
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    server = RedisServer(tmp_path, tls=(ours.sign("server"), ours.file))
    own = ours.sign("client", password="of-the-key")
    (tmp_path / "key-password").write_text("of-the-key\n")
    files = {
        "kafka_security_protocol": "PLAINTEXT", "feature_store": server.url, "tls_ca_file": ours.file,
        "tls_certificate_file": own.certificate, "tls_key_file": own.key,
        "tls_key_password_file": tmp_path / "key-password",
    }  # fmt: skip
    store = open_store(PIPELINE, Settings(**files), server.url)
    assert store.write([row("u", 1, 1, 1)], NOW_MS) == 1
    store.close()
    with pytest.raises(StoreUnavailableError, match=r"(?i)certificate"):
        open_store(PIPELINE, Settings(**{**files, "tls_ca_file": others.file}), server.url)
    without = {**files, "tls_certificate_file": None, "tls_key_file": None}
    with pytest.raises(StoreUnavailableError):  # an alert, or a connection that ends
        open_store(PIPELINE, Settings(**without), server.url)
    server.kill()


def test_urls_that_are_none_are_refused(tmp_path, monkeypatch):
    with pytest.raises(StoreRefusedError, match="holds a password"):
        open_store(PIPELINE, Settings(), "redis://:secret@127.0.0.1:1/0")
    with pytest.raises(CommandError, match="is no store"):
        open_store(PIPELINE, Settings(), "mysql://x")
    with pytest.raises(CommandError, match="names no file"):
        open_store(PIPELINE, Settings(), "sqlite://x")
    with pytest.raises(CommandError, match="features sync purchase"):
        open_store(PIPELINE, Settings(), f"sqlite:///{tmp_path}/none.sqlite", must_exist=True)
    monkeypatch.setenv("MILLRACE_FEATURE_STORE", "redis://me:secret@h:1/0")
    with pytest.raises(SettingsError, match="feature_store_password_file") as refused:
        load_settings()
    assert "secret@" not in str(refused.value)


def test_a_file_that_is_no_store_is_refused_in_one_line(tmp_path):
    path = tmp_path / "text.sqlite"
    path.write_text("this is no database, " * 100)
    with pytest.raises(StoreRefusedError, match=r"text\.sqlite: file is not a database"):
        open_store(PIPELINE, Settings(), f"sqlite:///{path}")


def test_the_default_store_is_a_file_in_the_home_folder(tmp_path):
    url = store_url(PIPELINE, Settings(home=tmp_path))
    assert sqlite_path(url) == tmp_path / "features" / "purchase.sqlite"
    assert store_url(PIPELINE, Settings(feature_store="redis://h:1/0")) == "redis://h:1/0"


class Record:
    """A record of the topic of features."""

    def __init__(self, body=None, *, raw=None, **changes):
        receipt = {"pipeline": "purchase", "event-time": "5", "offset": "7", **changes}
        self._headers = [(f"millrace-{name}", text.encode()) for name, text in receipt.items() if text is not None]
        self._value = raw if raw is not None else body

    def headers(self):
        return self._headers

    def value(self):
        return self._value


def body(entity="u", **features):
    return msgspec.json.encode({"event_id": "e", "user_id": entity, "timestamp": 5, "features": features})


def test_of_a_batch_the_newest_row_of_each_entity_is_left():
    rows = FeatureRows(PIPELINE, Settings())
    first = NAMES[0]
    records = [
        Record(body(**{first: 1})), Record(body(**{first: 2}), offset="9"), Record(body(**{first: 3}), offset="8"),
        Record(body(**{first: 4}), **{"event-time": "4"}, offset="10"), Record(body("v", **{first: 5})),
    ]  # fmt: skip
    found = {one.key: one for one in rows.of(records, NOW_MS)}
    assert found.keys() == {LAYOUT.entity_key("u"), LAYOUT.entity_key("v")}
    newest = found[LAYOUT.entity_key("u")]
    assert (newest.event_ms, newest.offset, newest.values) == (5, 9, LAYOUT.packed({first: 2}))
    later = {one.key: one for one in rows.of([Record(body(**{first: 6}), offset="8")], NOW_MS, list(found.values()))}
    assert later == found
    assert not rows.counts.left_out


def test_records_of_which_no_row_can_be_made_are_counted():
    rows = FeatureRows(PIPELINE, Settings())
    ahead = str(NOW_MS + AHEAD_MS + 1)
    records = [
        Record(body(), pipeline="other"), Record(raw=b"{"), Record(raw=b"[]"), Record(raw=b'{"user_id": "u"}'),
        Record(body(), **{"event-time": None}), Record(body(), **{"event-time": ahead}), Record(raw=b""),
        Record(raw=b'{"user_id": "u", "features": {"%b": "no number"}}' % NAMES[0].encode()),
    ]  # fmt: skip
    assert rows.of(records, NOW_MS) == []
    assert rows.counts.left_out == {
        "of another pipeline": 1, "no features of this pipeline": 6, "dated more than an hour ahead": 1,
    }  # fmt: skip


def test_bytes_are_those_that_feast_writes():
    """Computed with feast 0.67.0: `serialize_entity_key`, `_mmh3`, `Value` and `Timestamp`."""
    assert LAYOUT.entity_key("user-7é").hex() == (
        "010000000200000007000000757365725f69640200000008000000757365722d37c3a9"
    )
    one = dataclasses.replace(LAYOUT, features=("count_1h", "dwell_time_sec_mean_10m"))
    assert [field.hex() for field in one.feature_fields] == ["df5cb074", "9ef8fc98"]
    assert one.packed({"count_1h": 0.1}).hex() == "299a9999999999b93f" + "00" * 9
    assert read_value(bytes.fromhex("299a9999999999b93f")) == 0.1
    assert read_value(b"") is None
    times = {1_700_000_000_123: "0880e2cfaa0610c0a9d33a", -1_500: "08feffffffffffffffff011080cab5ee01", 0: ""}
    assert {time: timestamp_bytes(time).hex() for time in times} == times


def test_names_of_a_pipeline_with_hyphens_are_those_feast_allows():
    layout = FeastLayout.of(dataclasses.replace(PIPELINE, name="fraud-eu"))
    assert (layout.project, layout.view) == ("fraud_eu", "fraud_eu_features")
    assert layout.table == "fraud_eu_fraud_eu_features"
