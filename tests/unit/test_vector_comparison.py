"""Written feature vectors against those that come out now: compacted away is no fault, what is there must fit."""

import dataclasses

import numpy as np
import pytest
from wire_records import PURCHASE

from flink_jobs.answer_comparison import OLDER_THAN_TOPIC, WARMED_UP, WRONG_VECTOR, Findings, Judged
from flink_jobs.receipt_models import ReceiptModel
from flink_jobs.recomputed import Recomputed
from flink_jobs.settings import Settings
from flink_jobs.vector_comparison import OTHER_FEATURES, VectorComparison, written_vectors
from udfs.entity_state import WARMING
from udfs.pipeline import Avro

PIPELINE = dataclasses.replace(PURCHASE, features_topic="purchase-features")
COUNT, WIDTH = 20, len(PURCHASE.feature_names)
EVERYTHING = Judged({3: 0}, {3: 10_000}, {}, -(2**62), 2**62)


@pytest.fixture
def now():
    """Events at every other offset from 100 on; the first feature is missing."""
    offsets = 100 + 2 * np.arange(COUNT)
    features = np.random.default_rng(1).gamma(1.0, 5.0, (COUNT, WIDTH))
    features[:, 0] = np.nan
    return Recomputed(offsets, 1_000 + offsets, np.zeros(COUNT, np.uint8), np.arange(COUNT), features)


def compared(tmp_path, now, change=lambda rows: rows, judged=EVERYTHING, feature_set=None):
    vectors = written_vectors(PIPELINE, tmp_path, Settings())
    rows = np.zeros(COUNT, vectors.files.row_type)
    rows["offset"], rows["time_ms"], rows["identity"] = now.offsets, now.times_ms, now.identities
    rows["features"], rows["at_offset"] = now.features, np.arange(COUNT)
    change(rows).tofile(tmp_path / "000003-000000000000.answers")
    vectors.models.append(ReceiptModel("t", "", "", "", feature_set or PIPELINE.feature_set_hash()))
    findings = Findings()
    VectorComparison(PIPELINE, vectors, judged, findings, 2).compare((3, 0), now)
    return findings


def test_vectors_that_are_right_count_and_those_that_are_gone_do_not(tmp_path, now):
    assert compared(tmp_path, now).vectors == COUNT
    findings = compared(tmp_path, now, lambda rows: np.concatenate([rows[5:], rows[5:7]]))
    assert (findings.vectors, findings.holds) == (COUNT - 5 + 2, True), "compacted, and written again"


@pytest.mark.parametrize("column", ["features", "time_ms", "flags", "identity"])
def test_a_vector_that_differs_in_one_bit_is_found(tmp_path, now, column):
    def change(rows):
        if column == "features":
            rows["features"][4, 7] = np.nextafter(rows["features"][4, 7], np.inf)
        else:
            rows[column][4] += 1
        return rows

    findings = compared(tmp_path, now, change)
    assert (findings.vectors, dict(findings.counts)) == (COUNT - 1, {WRONG_VECTOR: 1})
    first = findings.first[0]
    assert (first.place, first.served[0]) == ((3, 108), ("purchase-features", 0, 4))
    words = {"features": PURCHASE.feature_names[7], "time_ms": "event time", "identity": "event id or entity"}
    assert first.what == f"in its vector, {words.get(column, column)}"


def test_the_vector_of_no_event_is_found_and_only_the_first_are_kept_whole(tmp_path, now):
    def change(rows):
        rows["offset"][:5] += 1
        return rows

    findings = compared(tmp_path, now, change)
    assert (findings.vectors, findings.counts[WRONG_VECTOR], len(findings.first)) == (COUNT - 5, 5, 2)
    elsewhere = dataclasses.replace(EVERYTHING, since_ms=10_000)
    assert compared(tmp_path, now, change, elsewhere).counts[WRONG_VECTOR] == 0, "not of the times that are judged"


def test_what_cannot_be_judged_is_counted_apart(tmp_path, now):
    assert compared(tmp_path, now, feature_set="another").unverifiable == {OTHER_FEATURES: COUNT}

    def warming(rows):
        rows["flags"][:3] = WARMING
        return rows

    assert compared(tmp_path, now, warming).unverifiable == {WARMED_UP: 3}

    def shorter(rows):
        rows["features"][:4, 2] = 0
        return rows

    older = dataclasses.replace(EVERYTHING, full_from_ms={3: 1_104})  # the time of the third event
    findings = compared(tmp_path, now, shorter, older)
    assert (findings.unverifiable, findings.counts[WRONG_VECTOR]) == ({OLDER_THAN_TOPIC: 2}, 2)
    earlier = dataclasses.replace(EVERYTHING, due_from={3: 110})
    assert compared(tmp_path, now, shorter, earlier).vectors == COUNT - 5, "an earlier job's"


def test_vectors_are_read_in_their_own_format():
    form = Avro(schema='{"type":"record","name":"F","fields":[]}')
    pipeline = dataclasses.replace(PIPELINE, features_format=form)
    assert written_vectors(pipeline, None, Settings())._pipeline.output_format is form
