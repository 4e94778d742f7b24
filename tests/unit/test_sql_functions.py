"""The functions behind `udfs.table`, without Flink: windows in arrays, models by reference, records as texts."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from wire_records import PURCHASE, shopper_records

from models.json_document import ModelRefusedError
from models.opened import SHIPPED, find_model, open_alone
from models.outputs import SCORE
from udfs.errors import DefinitionError
from udfs.event_texts import schema_text, texts_of
from udfs.naive_features import aggregate_of
from udfs.sql_scoring import score_columns
from udfs.window_arrays import (
    window_ewma,
    window_last,
    window_mean,
    window_previous,
    window_since_last,
    window_std,
    window_sum,
)
from udfs.wire_formats import EventDecoder, Refused

NAN = math.nan


def random_windows(seed=1, rows=200):
    rng = np.random.default_rng(seed)
    windows = []
    for _ in range(rows):
        values = rng.normal(50, 20, rng.integers(1, 30))
        values[rng.random(len(values)) < 0.2] = NAN
        times = np.sort(rng.integers(0, 3_600_000, len(values))).astype(float)
        windows.append((values, times))
    return windows


@pytest.mark.parametrize(
    ("name", "function"),
    [("sum", window_sum), ("mean", window_mean), ("std", window_std), ("last", window_last)],
)
def test_aggregates_of_arrays_equal_the_oracle(name, function):
    windows = random_windows()
    found = function([values for values, _ in windows])
    definition = {"feature": name}
    expected = [
        aggregate_of(definition, 0, [row for row in zip(times, values, strict=True) if row[1] == row[1]])
        for values, times in windows
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_ewma_equals_the_oracle():
    windows = random_windows(2)
    found = window_ewma([values for values, _ in windows], [times for _, times in windows], 300_000)
    definition = {"feature": "ewma", "half_life_ms": 300_000}
    expected = [
        aggregate_of(definition, 0, [row for row in zip(times, values, strict=True) if row[1] == row[1]])
        for values, times in windows
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_nothing_has_a_sum_of_0_and_nothing_else():
    empty = [np.zeros(0), np.array([NAN])]
    assert window_sum(empty).tolist() == [0.0, 0.0]
    for function in (window_mean, window_std, window_last):
        assert np.isnan(function(empty)).all()
    assert np.isnan(window_ewma(empty, [np.zeros(0), np.array([5.0])], 1_000)).all()
    assert window_sum([]).tolist() == []


def test_a_huge_value_leaves_nothing_behind_in_the_windows_after_it():
    """Contract: this is why sums are not SQL's own, which would answer 0 here."""
    assert window_sum([np.array([1e300, 5.0]), np.array([5.0])])[1] == 5.0


def test_of_equal_times_the_offset_tells_which_event_came_first():
    times, offsets = [np.array([7.0, 7.0])] * 2, [np.array([10.0, 11.0])] * 2
    own_times, own_offsets = np.array([7.0, 7.0]), np.array([10.0, 11.0])
    np.testing.assert_array_equal(window_since_last(times, offsets, own_times, own_offsets), [NAN, 0.0])
    values = [np.array([1.5, 2.5])] * 2
    np.testing.assert_array_equal(window_previous(values, offsets, own_offsets), [NAN, 1.5])


def test_an_event_that_came_later_is_not_before_whatever_its_time():
    found = window_since_last(
        [np.array([1_000.0, 4_000.0, 5_000.0])], [np.array([3.0, 9.0, 4.0])], np.array([5_000.0]), np.array([4.0])
    )
    assert found.tolist() == [4.0]


class Adds:
    """A model whose score is the sum of its features; it fails on negative ones."""

    class manifest:
        features = ("a", "b")
        prediction = SCORE

    def predict(self, features):
        if (features < 0).any():
            raise ValueError("negative")
        return features.sum(axis=1)


def scored(*arguments, default="", keep_missing=False):
    return score_columns(arguments, lambda _: Adds(), default, keep_missing=keep_missing).tolist()


A, B = pd.Series([1.0, 2.0, NAN]), pd.Series([10, 20, 30])


def test_features_are_given_by_position_or_by_name():
    expected = [11.0, 22.0]
    assert scored("m", A, B)[:2] == expected
    assert scored("m", "b", B, "a", A)[:2] == expected
    assert scored("m", A, 10)[:2] == [11.0, 12.0]


def test_null_feature_gives_null_unless_the_model_is_to_see_it():
    assert math.isnan(scored("m", A, B)[2])
    rows = []

    class Seen(Adds):
        def predict(self, features):
            rows.append(features.copy())
            return np.ones(len(features))

    found = score_columns(["m", A, B], lambda _: Seen(), "", keep_missing=True)
    assert found.tolist() == [1.0, 1.0, 1.0]
    assert math.isnan(rows[0][2, 0])
    assert scored("m", pd.Series([None, None, None], dtype=object), B) == pytest.approx([NAN] * 3, nan_ok=True)


def test_row_that_the_model_fails_on_is_null_and_the_others_are_scored():
    found = scored("m", pd.Series([1.0, -1.0, 3.0]), B)
    assert (found[0], found[2]) == (11.0, 33.0)
    assert math.isnan(found[1])


def test_model_may_be_a_column_and_a_null_one_gives_null():
    opened = []

    def open_model(reference):
        opened.append(reference)
        return Adds()

    models = pd.Series(["x", None, "y", "x"], dtype=object)
    values = pd.Series([1.0, 2.0, 3.0, 4.0])
    found = score_columns([models, values, values], open_model, "", keep_missing=False).tolist()
    assert (found[0], found[2], found[3]) == (2.0, 6.0, 8.0)
    assert math.isnan(found[1])
    assert sorted(opened) == ["x", "y"]


def test_model_may_be_set_instead_of_given():
    assert scored(A, B, default="m")[:2] == [11.0, 22.0]
    with pytest.raises(DefinitionError, match="millrace\\.model"):
        scored(A, B)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("m", A), "takes 2 features, 1 were given; it takes a, b"),
        (("m", A, B, B), "3 were given"),
        (("m", "a", A, "c", B), "not its features or twice: c; missing: b"),
        (("m", "a", A, "a", B), "twice: a, a; missing: b"),
        (("m", "a", A, "b"), "a name before every feature"),
        (("m", A, "text"), "feature b is no number"),
        (("m", A, pd.Series(["x", "y", "z"])), "feature b is no number"),
        (("m", 1, 2), "at least one column"),
    ],
)
def test_features_that_are_not_the_models_are_an_error(arguments, why):
    with pytest.raises(DefinitionError, match=why):
        scored(*arguments)


def test_model_is_found_by_name_by_version_and_by_folder():
    newest = SHIPPED / "purchase" / "2"
    assert find_model("purchase") == find_model("purchase/2") == find_model(str(newest)) == newest
    for reference in ("purchase/99", "nothing", "", "/nowhere"):
        with pytest.raises(ModelRefusedError, match="purchase/1, purchase/2"):
            find_model(reference)


def test_model_is_opened_only_with_the_digest_that_was_asked_for(tmp_path):
    digest = open_alone("purchase/1").manifest.sha256
    assert open_alone(f"purchase/1@{digest}").manifest.version == 1
    with pytest.raises(ModelRefusedError, match="another model by now"):
        open_alone(f"purchase/2@{digest}")
    folder = tmp_path / "purchase" / "1"
    folder.mkdir(parents=True)
    for name in ("manifest.json", "model.onnx"):
        content = (SHIPPED / "purchase" / "1" / name).read_bytes()
        (folder / name).write_bytes(content + b" " if name == "model.onnx" else content)
    with pytest.raises(ModelRefusedError, match="sha256"):
        open_alone("purchase/1", tmp_path)


def test_records_become_the_texts_of_their_fields_or_the_streams_refusal():
    records = shopper_records(40)
    records += [(b"k", b"{"), (None, records[0][1]), (b"k", None), (b"k", b"\xff"), (b"k", b"x" * 2_000_000)]
    decode = EventDecoder(PURCHASE).decode
    found = texts_of(*zip(*records, strict=True), schema_text(PURCHASE))
    for (key, value), texts in zip(records, found, strict=True):
        event = decode(key, value)
        assert len(texts) == 3 + len(PURCHASE.fields)
        if isinstance(event, Refused):
            assert (texts[0], texts[1]) == (event.reason, event.detail[:300])
            assert not any(texts[2:])
        else:
            assert texts[:3] == [None, None, str(event.timestamp)]
            assert texts[3:6] == [event.event_id, event.user_id, event.page_id]
            assert float(texts[6]) == event.dwell_time_sec


def test_whole_number_that_sql_cannot_hold_is_refused():
    document = json.loads(schema_text(PURCHASE))
    document["fields"] = [["id", "str", False, None], ["n", "int", True, None], ["t", "int", False, None]]
    schema = json.dumps({**document, "entity": "id", "time": "t"})
    values = [b'{"id": "a", "n": 18446744073709551615, "t": 5}', b'{"id": "a", "n": null, "t": 5}']
    found = texts_of([b"a", b"a"], values, schema)
    assert found[0][0] == "wrong_type"
    assert found[1] == [None, None, "5", "a", None, "5"]


def test_text_that_is_no_schema_is_refused():
    with pytest.raises(DefinitionError, match="no schema"):
        texts_of([b"a"], [b"{}"], "{}")
