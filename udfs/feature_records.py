"""Feature vectors as records of a topic of their own, by entity: the last one of an entity is what is known of it.

They go beside the predictions and have the same receipt, but for the model: no model is asked for them.
"""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.byte_lines import Lines
from udfs.output_fields import features_of
from udfs.output_writers import value_writer
from udfs.pipeline import Pipeline
from udfs.receipts import Receipt
from udfs.registered_schema import RegisteredSchema
from udfs.wire_formats import most_sent_bytes


class FeatureEncoder:
    """The feature vectors of one pipeline to records.

    Args:
        pipeline: One with a topic of features.
        schema: What they are written with, as it was registered; None where none has to be.

    Raises:
        DefinitionError: The schema of the format is none.
    """

    def __init__(self, pipeline: Pipeline, schema: RegisteredSchema | None = None) -> None:
        self._values_of = value_writer(features_of(pipeline), schema)
        self._copied = [operator.attrgetter(name) for name in pipeline.identity_fields]
        self._receipt, self._most_sent = Receipt.of_features(pipeline), most_sent_bytes(pipeline)

    def vectors(
        self,
        events: Sequence[Any],
        features: npt.NDArray[np.float64],
        *,
        keys: Lines,
        partitions: npt.NDArray[np.int32],
        offsets: npt.NDArray[np.int64],
        event_times_ms: npt.NDArray[np.int64],
        flags: Sequence[str] | None = None,
        warming: Sequence[str] | None = None,
        seen: Sequence[str] | None = None,
    ) -> bytes:
        """The vectors of n events, as a group of output records; arguments as of `PredictionEncoder.predictions`.

        Raises:
            OutputTooLargeError: A vector is larger than what is sent to Kafka.
        """
        columns: list[Iterable[Any]] = [map(copy, events) for copy in self._copied]
        values, numbers = self._values_of(columns, features), (partitions, offsets, event_times_ms)
        return self._receipt.pack(keys, values, numbers, flags, warming, seen, most_bytes=self._most_sent)
