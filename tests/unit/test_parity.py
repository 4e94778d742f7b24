"""The comparison behind `millrace parity`: what must be found is, what may differ by rounding is tolerated."""

import dataclasses
import math

import msgspec
import numpy as np
import pytest
from test_hard_events import READINGS
from wire_records import PURCHASE

from flink_jobs.hard_events import hard_records
from flink_jobs.parity_by_design import unordered_events
from flink_jobs.parity_comparison import ANSWER, LATE, Side, compare, is_exact
from flink_jobs.parity_engines import Said, oracle_of_shard
from flink_jobs.parity_job import _differences
from flink_jobs.parity_rows import FEATURES, REFUSED, EngineRows, ParityInput, SpooledRecord, reason_number
from udfs.aggregates import Count, Max, Mean, Ratio, Sum, Value
from udfs.entity_state import LATE as LATE_FLAG
from udfs.entity_state import ShardState
from udfs.key_places import key_shards
from udfs.plan import FeaturePlan
from udfs.wire_formats import EventDecoder, Refused

SHARDS = 3


def given_of(pipeline, records, folder, shards=SHARDS):
    """An input as `spool_input` makes it, of one partition and without a broker."""
    given = ParityInput(pipeline, "", folder, {0: 0}, len(records), shards, "")
    (folder / "records").mkdir(parents=True)
    files = [given.shard_file(shard).open("wb") for shard in range(shards)]
    for row, (key, value, reason) in enumerate(records):
        shard = int(key_shards([(key or b"").decode()], shards)[0])
        content = msgspec.msgpack.encode(SpooledRecord(row, 0, 9 * 10**12, key, value, reason))
        files[shard].write(len(content).to_bytes(4, "little") + content)
    for file in files:
        file.close()
    return given


def rows_of(given, name):
    return EngineRows(given.folder / name, given.count, len(given.pipeline.feature_names), create=True)


def by_engine(given, rows):
    """The engine that the job and the backfill share, fed event by event."""
    from flink_jobs.parity_rows import spooled

    pipeline = given.pipeline
    plan, decode = FeaturePlan.build(pipeline), EventDecoder(pipeline).decode
    for shard in range(SHARDS):
        state = ShardState(plan, log_changes=False)
        for record in spooled(given.shard_file(shard)):
            event = decode(record.key, record.value)
            if isinstance(event, Refused):
                rows.refuse(record.row, event.reason)
                continue
            times, columns, masks, direct = plan.columnise([event])
            name = str(getattr(event, pipeline.events.entity))
            record_times, partitions = np.array([record.time_ms]), np.array([record.partition], np.int32)
            advanced = state.advance([name], times, record_times, partitions, columns, masks, direct)
            rows.answer(record.row, advanced.features[0], bool(advanced.flags[0] & LATE_FLAG))


@pytest.fixture(scope="module", params=[PURCHASE, READINGS], ids=lambda each: each.name)
def sides(request, tmp_path_factory):
    given = given_of(request.param, list(hard_records(request.param, 1_500, 5)), tmp_path_factory.mktemp("parity"))
    oracle, engine = rows_of(given, "oracle"), rows_of(given, "engine")
    for shard in range(SHARDS):
        oracle_of_shard(given, oracle, shard)
    by_engine(given, engine)
    return given, oracle, engine


def found(given, oracle, engine, said=None, by_design=None):
    result = compare(given, Side("oracle", oracle, Said()), Side("backfill", engine, said or Said()), by_design)
    return {each.feature: each for each in result}


def changed(given, engine, name):
    """A copy of what the engine said, to be spoiled."""
    copy = rows_of(given, name)
    for array in ("features", "answers", "late", "reasons"):
        getattr(copy, array)[:] = getattr(engine, array)
    return copy


def test_the_engine_agrees_with_the_oracle_on_hard_input(sides):
    given, oracle, engine = sides
    result = found(given, oracle, engine)
    assert {name: each.row for name, each in result.items() if each.differences} == {}
    events = int((engine.answers == FEATURES).sum())
    assert all(result[name].compared == events > 1_400 for name in given.pipeline.feature_names)
    assert result[ANSWER].compared == given.count
    assert engine.late.sum() > 3
    assert max(each.largest for each in result.values()) < 1e-9


def test_an_engine_that_is_wrong_once_is_found_with_its_record(sides, tmp_path_factory):
    given, oracle, engine = sides
    wrong = changed(given, engine, "wrong-once")
    exact = next(name for name in given.pipeline.feature_names if "count" in name)
    row = int(np.flatnonzero(np.asarray(engine.answers) == FEATURES)[700])
    place = given.pipeline.feature_names.index(exact)
    wrong.features[row, place] = np.nextafter(wrong.features[row, place], math.inf)
    result = found(given, oracle, wrong)
    differing = {name: (each.differences, each.row) for name, each in result.items() if each.differences}
    assert differing == {exact: (1, row)}
    [told] = _differences(given, [Side("oracle", oracle, Said()), Side("backfill", wrong, Said())], [result[exact]])
    assert given.row(*told.place) == row
    assert told.values["backfill"] == wrong.features[row, place] != told.values["oracle"]
    assert len(told.events) == min(50, oracle.features[row, place])


def test_rounding_is_tolerated_in_sums_and_more_than_that_is_not(sides):
    given, oracle, engine = sides
    owners = {name: each for each in given.pipeline.features for name in each.names(given.pipeline.fields)}
    name = next(name for name, each in owners.items() if isinstance(each, Sum | Mean))
    place = given.pipeline.feature_names.index(name)
    rows = np.flatnonzero(np.isfinite(engine.features[:, place]) & (np.abs(engine.features[:, place]) > 1e-3))
    rounded = changed(given, engine, "rounded")
    rounded.features[rows, place] *= 1 + 1e-12
    result = found(given, oracle, rounded)[name]
    assert (result.differences, 1e-13 < result.largest < 1e-9) == (0, True)
    wrong = changed(given, engine, "not-rounded")
    wrong.features[rows, place] *= 1 + 1e-6
    result = found(given, oracle, wrong)[name]
    assert result.differences > 0.9 * len(rows)
    assert result.largest > 1e-7


def test_the_last_bit_of_a_number_too_small_to_be_normal_is_rounding_too(sides):
    given, oracle, engine = sides
    owners = {name: each for each in given.pipeline.features for name in each.names(given.pipeline.fields)}
    name, exact = (
        next(name for name, each in owners.items() if isinstance(each, kind)) for kind in (Sum | Mean, Value)
    )
    row = int(np.flatnonzero(np.asarray(engine.answers) == FEATURES)[500])
    nothing, least = changed(given, oracle, "nothing"), changed(given, engine, "least")
    for each in (name, exact):
        place = given.pipeline.feature_names.index(each)
        nothing.features[row, place], least.features[row, place] = 0.0, 5e-324
    result = found(given, nothing, least)
    assert (result[name].differences, result[exact].differences) == (0, 1)


def test_two_engines_of_one_arithmetic_must_agree_to_the_last_bit_also_in_sums(sides):
    given, _, engine = sides
    rounded = changed(given, engine, "rounded-too")
    rounded.features[:] = np.nextafter(np.asarray(engine.features), math.inf)
    result = compare(given, Side("streaming", engine, Said()), Side("backfill", rounded, Said()), None)
    values = int(np.isfinite(np.asarray(engine.features)).sum())
    assert sum(each.differences for each in result) == values


def test_missing_answers_other_reasons_and_lateness_are_found(sides):
    given, oracle, engine = sides
    wrong = changed(given, engine, "wrong-answers")
    answered, refused = (np.flatnonzero(np.asarray(engine.answers) == kind) for kind in (FEATURES, REFUSED))
    wrong.answers[answered[:2]] = 0
    wrong.reasons[refused[0]] = reason_number("model_failed")
    wrong.late[answered[5]] = not wrong.late[answered[5]]
    result = found(given, oracle, wrong)
    assert (result[ANSWER].differences, result[LATE].differences) == (3, 1)


def test_what_differs_by_design_is_counted_apart_and_everything_else_is_not_excused(sides):
    given, oracle, engine = sides
    wrong = changed(given, engine, "by-design")
    answered = np.flatnonzero(np.asarray(engine.answers) == FEATURES)
    wrong.features[answered[10:14], 0] = 12_345.0
    excused = np.zeros(given.count, np.bool_)
    excused[answered[10:13]] = True
    result = found(given, oracle, wrong, Said(by_event_time=True), excused)[given.pipeline.feature_names[0]]
    assert (result.by_design, result.differences) == (3, 1)


def test_a_feature_that_an_engine_refuses_is_said_and_not_compared(sides):
    given, oracle, engine = sides
    name = given.pipeline.feature_names[-1]
    result = found(given, oracle, engine, Said(refused={name: "it cannot"}))
    assert (result[name].refused, result[name].compared) == ("it cannot", 0)


def test_a_record_answered_twice_is_counted(sides):
    given, _, engine = sides
    copy = changed(given, engine, "twice")
    row = int(np.flatnonzero(np.asarray(engine.answers) == FEATURES)[0])
    copy.answer(row, np.asarray(engine.features[row]), False)
    assert int(copy.twice[0]) == 1


def test_exact_is_what_no_rounding_can_change():
    assert is_exact(Count(window="1h"))
    assert is_exact(Ratio(Count(window="1h"), Max("x", window="1h")))
    assert not is_exact(Ratio(Sum("x", window="1h"), Count(window="1h")))


def test_events_that_an_engine_by_event_time_must_see_otherwise_are_told_from_the_rest(tmp_path):
    minute, base = 60_000, 1_760_000_000_000
    pipeline = dataclasses.replace(PURCHASE, features=[Count(window="10m")])

    def at(user, offset_ms):
        value = {"event_id": "e", "user_id": user, "page_id": "home", "dwell_time_sec": 1.0}
        value["timestamp"] = base + offset_ms
        return user.encode(), msgspec.json.encode(value), None

    told = [
        (at("ordered", 0), False), (at("ordered", minute), False), (at("equal", 0), True), (at("equal", 0), True),
        (at("equal", 20 * minute), False), (at("seen-later", 5 * minute), True), (at("seen-later", 2 * minute), False),
        (at("dropped", 30 * minute), False), (at("dropped", 25 * minute), True), (at("dropped", 31 * minute), True),
        (at("dropped", 50 * minute), False),
        (at("forgotten", 50 * minute), False), (at("clock", 80 * minute), False), (at("forgotten", 51 * minute), True),
        (at("forgotten", 70 * minute), False),
    ]  # fmt: skip
    given = given_of(pipeline, [record for record, _ in told], tmp_path, shards=1)
    answered = np.ones(len(told), np.bool_)
    answered[8] = False
    expected = [unlike for _, unlike in told]
    expected[7] = True  # the one that was dropped, had it not been, would have been in its window
    assert unordered_events(given, pipeline.longest_window_ms, answered).tolist() == expected
