"""Contestant: Apache Beam as its documentation teaches it, a stateful `DoFn` and `RunInference`, on the DirectRunner.

    python -c "from tests.benchmarks.beam_pipeline import main; main()" WORKERS RECORDS OUTPUT SECONDS SIZE…

WORKERS is 0 for the runner that works in this process itself, or the number of its worker processes.

In its favour: the records are in memory (with workers: in a file that was just written) before the clock starts, with
their keys, as `ReadFromKafka` would give them; what comes out stays in memory or goes into plain files; there are no
checkpoints and no transactions; a bundle is a whole run, so that every shopper's state is read and written once;
records and keys have the coder for bytes; the model has large batches and returns one number a row.

The predictions of the last size go to OUTPUT, one a line, and the seconds of each size to SECONDS as JSON.
"""

import gc
import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import apache_beam as beam
import numpy as np
from apache_beam.coders import BytesCoder, FastPrimitivesCoder
from apache_beam.ml.inference.base import KeyedModelHandler, PredictionResult, RunInference
from apache_beam.ml.inference.onnx_inference import OnnxModelHandlerNumpy
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from tests.benchmarks.visits import (
    INPUT,
    MODEL_FILE,
    OUTPUT,
    Prediction,
    decode_event,
    encode_prediction,
    features_of,
    open_session,
)

BATCH = 1_000

Record = tuple[bytes, bytes]
Place = tuple[str, str]

# of the module, not of a function: what a function holds is pickled into the pipeline
records: list[Record] = []
predictions: list[bytes] = []


def read(size: int) -> Iterable[Record]:
    return itertools.islice(records, size)


def records_of(path: Path) -> Iterator[Record]:
    for line in path.read_bytes().splitlines():
        key, _, value = line.partition(b"\t")
        yield key, value


def split(source: Path, size: int, parts: int) -> list[str]:
    """The first records in a file for each worker, which does not see our memory; a shopper's are in one file."""
    files: list[list[bytes]] = [[] for _ in range(parts)]
    for line in itertools.islice(source.read_bytes().splitlines(keepends=True), size):
        files[crc32(line.partition(b"\t")[0]) % parts].append(line)
    paths = [source.with_name(f"{source.name}-{size}-{number}") for number in range(parts)]
    for path, lines in zip(paths, files, strict=True):
        path.write_bytes(b"".join(lines))
    return [str(path) for path in paths]


def read_file(path: str) -> Iterable[Record]:
    return records_of(Path(path))


class ComputeFeatures(beam.DoFn):
    VISITS = ReadModifyWriteStateSpec("visits", FastPrimitivesCoder())

    def process(
        self,
        record: Record,
        visits: Any = beam.DoFn.StateParam(VISITS),  # noqa: B008 (how Beam is told)
    ) -> Iterator[tuple[Place, np.ndarray]]:
        event = decode_event(record[1])
        kept = visits.read() or []
        features = features_of(kept, event)
        visits.write(kept)
        yield (event.event_id, event.user_id), np.array(features, np.float32)


class ModelHandler(OnnxModelHandlerNumpy):
    """Opens the model with one thread: onnxruntime's options cannot be pickled, so the handler cannot be given them."""

    def load_model(self) -> Any:
        return open_session()


def infer(session: Any, rows: Sequence[np.ndarray], _arguments: Any) -> list[float]:
    (probabilities,) = session.run([OUTPUT], {INPUT: np.stack(rows)})
    return probabilities[:, 1].tolist()


def encode(result: tuple[Place, PredictionResult]) -> bytes:
    (event_id, user_id), prediction = result
    return encode_prediction(Prediction(event_id, user_id, prediction.inference, time.time_ns() // 1_000_000))


def keep(prediction: bytes) -> None:
    predictions.append(prediction)


def run(size: int) -> float:
    """Seconds for that many records, in this process."""
    predictions.clear()
    started = time.monotonic()
    with beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions([])) as pipeline:
        score(pipeline | beam.Create([size]) | beam.FlatMap(read)) | beam.Map(keep)
    return time.monotonic() - started


def run_in_workers(files: list[str], output: str) -> float:
    """Seconds for the records of the files, a worker process a file; predictions go to files that begin with OUTPUT."""
    options = PipelineOptions(direct_running_mode="multi_processing", direct_num_workers=len(files))
    started = time.monotonic()
    with beam.Pipeline(runner=FnApiRunner(), options=options) as pipeline:
        read = pipeline | beam.Create(files) | beam.Reshuffle() | beam.FlatMap(read_file)
        score(read) | beam.io.WriteToText(output, coder=BytesCoder())
    return time.monotonic() - started


def score(read: beam.PCollection[Record]) -> beam.PCollection[bytes]:
    handler = ModelHandler(str(MODEL_FILE), inference_fn=infer, min_batch_size=BATCH, max_batch_size=BATCH)
    features = read | beam.ParDo(ComputeFeatures())
    return features | RunInference(KeyedModelHandler(handler)) | beam.Map(encode)


def main() -> None:
    workers, source, output, timed, *sizes = sys.argv[1:]
    if int(workers):
        splits = [split(Path(source), int(size), int(workers)) for size in sizes]
        seconds = [run_in_workers(files, f"{output}-{size}") for files, size in zip(splits, sizes, strict=True)]
        parts = Path(output).parent.glob(f"{Path(output).name}-{sizes[-1]}-*")
        Path(output).write_bytes(b"".join(part.read_bytes() for part in parts))
    else:
        records.extend(records_of(Path(source)))
        gc.freeze()  # the collector need not walk through the records
        seconds = [run(int(size)) for size in sizes]
        Path(output).write_bytes(b"\n".join(predictions))
    Path(timed).write_text(json.dumps(seconds), "utf-8")
