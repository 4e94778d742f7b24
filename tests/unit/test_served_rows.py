"""Which rows events saw, as their answers tell: what is computed again with, what is wrong, and what cannot be said."""

from types import SimpleNamespace

import numpy as np
import pytest
from shop_events import View, products, shop, version

from flink_jobs.answer_comparison import DIFFERENT, AnswerComparison, Judged
from flink_jobs.recomputed import Recomputed
from flink_jobs.row_marks import GONE_BEFORE, NO_ROW, OLDER_ROW, RowMarks, RowState, windows_read_rows
from flink_jobs.served_answers import BUCKET_OFFSETS, ServedAnswers, identity
from flink_jobs.served_rows import ServedPlaces, ServedRows
from udfs.lookup_join import LookupHistory, places_told
from udfs.pipeline import Mean, Value

ROWS = [
    version("p0", 4, 10, 2.0), version("p0", 15, 12, 8.0), version("p1", 11, 13, 3.0), version("p2", 5, 14, 1.0),
    version("p2", 25, 15, None), version("p3", 40, 16, 7.0),
]  # fmt: skip
GONE = "the row of lookup products that it saw is no longer in its topic"
FEATURES = [Value("products.price"), Mean("products.price", window="50ms")]


def view(user, item, at):
    return SimpleNamespace(**dict(zip(View.__annotations__, (f"v{at}", user, item, at), strict=True)))


def pipeline_of(features=None):
    return shop([products()], features or FEATURES)


class Answer:
    """A prediction in Kafka."""

    def __init__(self, offset, lookups, **headers):
        told = {"pipeline": "shop", "topic": "views", "partition": "1", "offset": str(offset), **headers}
        told |= {} if lookups is None else {"lookups": lookups}
        self._headers = [(f"millrace-{name}", text.encode()) for name, text in told.items()]
        self._offset = offset

    def headers(self):
        return self._headers

    def offset(self):
        return self._offset

    def partition(self):
        return 0

    def value(self):
        return b"{}"

    def timestamp(self):
        return 1, 0


def served(folder, told, pipeline, live=None, ends=None):
    """Rows that events at offsets saw, as receipts tell; marks go to `folder/marks`."""
    (folder / "answers").mkdir()
    (folder / "marks").mkdir()
    answers = ServedAnswers(pipeline, folder / "answers")
    for offset, text in told.items():
        answers._enter(Answer(offset, text), 0)
    answers._flush()
    places = ServedPlaces(answers.files, live or {}, ends or {}, folder / "marks")
    return ServedRows(pipeline, {"products": LookupHistory(ROWS)}, places)


def test_a_text_of_places_is_read_as_it_is_written_and_no_other_is():
    told = {"products": (2, 1234), "users": None, "shops": (-1, 17)}
    assert places_told("products=2/1234,users=-,shops=-1/17") == told
    for broken in ("", "products", "products=1", "products=a/b", "products=-2/1", "p=1/-1", f"p=0/{2**63}", "p=1/2/3"):
        with pytest.raises(ValueError, match=r"."):
            places_told(broken)


CASES = [
    ("p0", 20, "products=0/12", RowState.SAME, 8.0),
    ("p0", 20, "products=0/10", RowState.OLDER, 2.0),
    ("p0", 20, "products=-", RowState.NONE, 0.5),
    ("p9", 20, "products=-", RowState.SAME, 0.5),
    (None, 20, "products=-", RowState.SAME, 0.5),
    ("p2", 30, "products=-", RowState.SAME, 0.5),
    ("p2", 30, "products=0/14", RowState.OLDER, 1.0),
    ("p2", 30, "products=0/15", RowState.DELETES, 0.5),
    ("p0", 20, "products=0/13", RowState.OTHER_KEY, 3.0),
    ("p3", 30, "products=0/16", RowState.TOO_NEW, 7.0),
    ("p0", 20, "products=0/7", RowState.GONE, 8.0),
    ("p9", 20, "products=3/12", RowState.GONE, 0.5),
    ("p0", 20, None, RowState.NOT_TOLD, 8.0),
    ("p0", 20, "users=0/1", RowState.NOT_TOLD, 8.0),
    ("p0", 20, "products=what", RowState.NOT_TOLD, 8.0),
]


def test_each_event_sees_the_row_that_its_answer_names_or_what_a_backfill_says(tmp_path):
    pipeline = pipeline_of()
    rows = served(tmp_path, {100 + number: case[2] for number, case in enumerate(CASES)}, pipeline)
    events = [view("u", item, at) for item, at, *_ in CASES] + [view("u", "p0", 20)]
    seen = rows.seen(events, 1, 100 + np.arange(len(events)))["products"]
    assert [each.state for each in seen] == [case[3] for case in CASES] + [RowState.NOT_TOLD]
    assert [each.row.price for each in seen] == [case[4] for case in CASES] + [8.0]
    assert [each.key for each in seen[:5]] == ["p0", "p0", "p0", "p9", None]
    elsewhere = rows.seen(events, 0, 100 + np.arange(len(events)))["products"]
    assert {each.state for each in elsewhere} == {RowState.NOT_TOLD}


def test_what_an_earlier_job_answered_is_not_what_the_state_was_built_of(tmp_path):
    pipeline = pipeline_of()
    told = dict.fromkeys((100, 101), "products=0/10")
    rows = served(tmp_path, told, pipeline, live={1: 101})
    seen = rows.seen([view("u", "p0", 20)] * 2, 1, np.array([100, 101]))["products"]
    assert [each.state for each in seen] == [RowState.NOT_TOLD, RowState.OLDER]
    assert [each.row.price for each in seen] == [8.0, 2.0]


def test_a_state_was_built_with_the_rows_of_its_day(tmp_path):
    events = [view("u", "p0", 20), view("u", "p1", 20), view("u", "p0", 20)]
    rows = served(tmp_path, {}, pipeline_of(), live={1: 102}, ends={"products": {0: 12}})
    seen = rows.seen(events, 1, np.arange(100, 103))["products"]
    assert [each.row.price for each in seen] == [2.0, 0.5, 8.0]


def marked(folder, told, views, pipeline=None, offsets=None):
    """What is to be said of views, after the processes of a backfill wrote it down."""
    pipeline = pipeline or pipeline_of()
    offsets = np.arange(100, 100 + len(views)) if offsets is None else np.array(offsets)
    rows = served(folder, dict(zip(offsets.tolist(), told, strict=True)), pipeline)
    for part in (slice(0, 2), slice(2, None)):  # as blocks come
        rows.rows([view(*each) for each in views[part]], 1, offsets[part])
    return RowMarks(pipeline, folder / "marks"), offsets, np.array([at for *_, at in views])


def test_rows_that_are_gone_make_later_events_of_their_entity_unsure_while_windows_hold_them(tmp_path):
    views = [("u", "p0", 20), ("v", "p0", 21), ("u", "p1", 22), ("u", "p1", 69), ("u", "p1", 70), ("v", "p1", 71)]
    told = ["products=0/7", "products=0/12", *["products=0/13"] * 4]
    marks, offsets, times = marked(tmp_path, told, views)
    said = marks.of((1, 0), offsets, times, [user for user, *_ in views])
    assert [said.why_unsure(place) for place in range(6)] == [GONE, None, GONE_BEFORE, GONE_BEFORE, None, None]
    assert said.counted() == {"products": {OLDER_ROW: 0, NO_ROW: 0}}
    (tmp_path / "direct").mkdir()
    marks, *_ = marked(tmp_path / "direct", told, views, pipeline_of([Value("products.price")]))
    said = marks.of((1, 0), offsets, times, [user for user, *_ in views])
    assert [said.why_unsure(place) for place in range(6)] == [GONE, *[None] * 5]


def test_whether_windows_read_rows():
    assert windows_read_rows(pipeline_of())
    assert not windows_read_rows(pipeline_of([Value("products.price"), Mean("at", window="1h")]))


def test_a_gone_row_of_an_earlier_stretch_is_remembered_and_stretches_may_be_left_out(tmp_path):
    views = [("u", "p0", 20), ("v", "p0", 21), ("u", "p0", 22), ("v", "p0", 23), ("u", "p0", 90)]
    told = ["products=0/7", "products=0/12", "products=0/10", "products=-", "products=0/12"]
    offsets = [0, 1, BUCKET_OFFSETS, BUCKET_OFFSETS + 1, 2 * BUCKET_OFFSETS]
    marks, offsets, times = marked(tmp_path, told, views, offsets=offsets)
    said = marks.of((1, 1), offsets[2:4], times[2:4], ["u", "v"])
    assert [said.why_unsure(place) for place in range(2)] == [GONE_BEFORE, None]
    assert said.counted() == {"products": {OLDER_ROW: 1, NO_ROW: 1}}
    said = marks.of((1, 2), offsets[4:], times[4:], ["u"])
    assert said.why_unsure(0) is None


class Prices:
    """A model that says the price of the product."""

    def predict(self, features):
        return features[:, 0]


def test_answers_are_judged_by_the_rows_that_they_name(tmp_path):
    views = [("a", "p0", 20), ("b", "p0", 20), ("c", "p0", 21), ("d", "p0", 20), ("e", "p3", 30), ("f", "p0", 22)]
    told = ["products=0/12", "products=0/10", "products=0/7", "products=0/13", "products=0/16", "products=-"]
    pipeline = pipeline_of([Value("products.price")])
    marks, offsets, times = marked(tmp_path, told, views, pipeline)
    prices = np.array([8.0, 2.0, 8.0, 3.0, 7.0, 0.5])
    users = [user for user, *_ in views]
    who = np.array([identity(f"v{at}", user) for user, _, at in views])
    now = Recomputed(offsets, times, np.zeros(6, np.uint8), who, prices[:, None], entities=users)
    now.seen = marks.of((1, 0), offsets, times, users)
    (tmp_path / "served").mkdir()
    answers = ServedAnswers(pipeline, tmp_path / "served")
    rows = np.zeros(6, answers.files.row_type)
    rows["offset"], rows["time_ms"], rows["identity"] = offsets, times, who
    rows["score"] = [8.0, 2.0, 2.5, 3.0, 7.0, 0.25]
    judged = Judged({1: 0}, {1: 200}, {}, -(2**62), 2**62)
    comparison = AnswerComparison(pipeline, answers, None, None, judged, 10)
    comparison._scored(1, rows, Prices(), now, SimpleNamespace(by_model=True, fallback=""))
    findings = comparison.findings
    assert (findings.equal, findings.unverifiable) == (2, {GONE: 1})
    assert [(each.kind, each.place[1] - 100, each.what) for each in findings.first] == [
        (DIFFERENT, 3, "the row of lookup products, which is of another key"),
        (DIFFERENT, 4, "the row of lookup products, which holds from a later time on"),
        (DIFFERENT, 5, "score"),
    ]
    rows["time_ms"][2] += 1  # which no row explains
    comparison._scored(1, rows[2:3], Prices(), now, SimpleNamespace(by_model=True, fallback=""))
    assert findings.first[-1].what == "score, event time"
