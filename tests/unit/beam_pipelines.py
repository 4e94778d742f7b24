"""Pipelines on Beam's direct runner; `test_beam` runs them in a process of their own.

Once PyFlink's worker code is loaded, as other tests do, Beam's runners in that process read its operators as PyFlink's.
"""

from collections import namedtuple
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.inference.base import KeyedModelHandler, KeyModelMapping, ModelMetadata, RunInference
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from onnx_graphs import write_times

from models.opened import open_alone
from udfs.beam import MillraceModelHandler

Row = namedtuple("Row", "a b")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for version in (1, 2, 3):
        write_times(tmp_path, version, 10**version)
    return tmp_path


def test_batches_of_the_runner_score_as_our_model_does():
    model = open_alone("purchase/2")
    rows = np.random.default_rng(3).exponential(20, (500, len(model.manifest.features)))
    scores = model.predict(rows).tolist()
    wanted = [(place, f"purchase/2@{model.manifest.sha256}", score) for place, score in enumerate(scores)]

    with beam.Pipeline() as pipeline:
        handler = KeyedModelHandler(MillraceModelHandler("purchase/2", min_batch_size=7, max_batch_size=64))
        results = pipeline | beam.Create(list(enumerate(rows))) | RunInference(handler)
        found = results | beam.MapTuple(lambda key, result: (key, result.model_id, result.inference))
        assert_that(found, equal_to(wanted))


def test_windows_are_scored_by_the_model_that_is_theirs(root):
    """Each window of a side input names a model, in one of the forms; one of them cannot be opened."""
    (root / "times" / "3" / "model.onnx").write_bytes(b"broken")
    names = {0: str(root / "times" / "2"), 10: "times/1", 20: str(root / "times" / "3"), 30: "times/9",
             40: str(root / "times" / "2" / "manifest.json")}  # fmt: skip

    with beam.Pipeline() as pipeline:
        models = (
            pipeline
            | "models" >> beam.Create(list(names.items()))
            | "times of models" >> beam.MapTuple(lambda at, name: TimestampedValue(ModelMetadata(name, "m"), at))
            | "windows of models" >> beam.WindowInto(FixedWindows(10))
        )
        results = (
            pipeline
            | beam.Create(range(50))
            | beam.Map(lambda at: TimestampedValue(Row(at, 1), at))
            | beam.WindowInto(FixedWindows(10))
            | RunInference(MillraceModelHandler("times/1", root=root), model_metadata_pcoll=models)
        )
        # after a refusal the model before stays, whichever window that was
        good = results | beam.Filter(lambda result: not 20 <= result.example.a < 40)
        versions = {place: 2 if not 10 <= place < 20 else 1 for place in [*range(20), *range(40, 50)]}
        assert_that(
            good | beam.Map(lambda result: (result.example.a, result.model_id.split("@")[0], result.inference)),
            equal_to([(a, f"times/{version}", (a + 1.0) * 10**version) for a, version in versions.items()]),
        )
        rest = results | "rest" >> beam.Filter(lambda result: 20 <= result.example.a < 40)

        def check(found):
            assert len(found) == 20
            assert {result.model_id.split("@")[0] for result in found} <= {"times/1", "times/2"}
            assert all(
                result.inference == (result.example.a + 1) * 10 ** int(result.model_id[6]) for result in found
            )

        assert_that(rest, check, label="refused models")


def test_each_key_may_have_a_model_of_its_own(root):
    with beam.Pipeline() as pipeline:
        mappings = [
            KeyModelMapping([key], MillraceModelHandler(f"times/{key}", root=root)) for key in (1, 2)
        ]
        results = pipeline | beam.Create([(1, Row(1, 1)), (2, Row(1, 1))]) | RunInference(KeyedModelHandler(mappings))
        found = results | beam.MapTuple(lambda key, result: (key, result.inference))
        assert_that(found, equal_to([(1, 20.0), (2, 200.0)]))
