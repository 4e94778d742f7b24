"""The shipped pipeline's features as a person would write them by hand: one visit at a time, over a short list.

Every contestant that does without Millrace uses this, in an environment of its own too: nothing but msgspec, numpy and
onnxruntime is imported. The list holds an hour of one shopper's visits, about ten.
"""

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime

MODEL_FILE = Path(__file__).parents[2] / "models" / "purchase" / "2" / "model.onnx"
INPUT, OUTPUT = "features", "probabilities"

PAGES = ("home", "product", "checkout", "search")
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
HALF_LIFE_MS = 5 * MINUTE_MS

Visit = tuple[int, str, float]


class PageView(msgspec.Struct, gc=False):
    event_id: str
    user_id: str
    page_id: str
    dwell_time_sec: float
    timestamp: int


class Prediction(msgspec.Struct, gc=False):
    event_id: str
    user_id: str
    purchase_probability: float
    scored_at: int


decode_event = msgspec.json.Decoder(PageView).decode
encode_prediction = msgspec.json.Encoder().encode


def features_of(visits: list[Visit], event: PageView) -> list[float]:
    """Add the event to its shopper's visits, forget those older than an hour, and compute the 18 features."""
    now = event.timestamp
    while visits and visits[0][0] <= now - HOUR_MS:
        del visits[0]
    before = visits[-1][0] if visits else None
    checkout_before = None
    for time_ms, page, _ in reversed(visits):
        if page == "checkout":
            checkout_before = time_ms
            break
    visits.append((now, event.page_id, event.dwell_time_sec))

    count_10m = products = checkouts = 0
    sum_10m = total = longest = weights = weighted = 0.0
    pages = set()
    for time_ms, page, dwell in visits:
        total += dwell
        longest = max(longest, dwell)
        pages.add(page)
        products += page == "product"
        checkouts += page == "checkout"
        weight = 2.0 ** ((time_ms - now) / HALF_LIFE_MS)
        weights += weight
        weighted += weight * dwell
        if time_ms > now - 10 * MINUTE_MS:
            count_10m += 1
            sum_10m += dwell
    count = len(visits)
    mean = total / count
    variance = 0.0
    for _, _, dwell in visits:
        variance += (dwell - mean) ** 2
    return [
        event.dwell_time_sec,
        *[float(event.page_id == page) for page in PAGES],
        count_10m,
        count,
        products,
        checkouts,
        products / count,
        sum_10m,
        mean,
        longest,
        math.sqrt(variance / count),
        weighted / weights,
        len(pages),
        math.nan if before is None else (now - before) / 1_000,
        math.nan if checkout_before is None else (now - checkout_before) / 1_000,
    ]  # fmt: skip


def open_session(model_file: Path = MODEL_FILE) -> Any:
    """One thread: a pool would fight with the contestant's own processes for the cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model_file.read_bytes(), options, providers=["CPUExecutionProvider"])


class PurchaseModel:
    """`models/purchase/2`, or another model of that form, straight from onnxruntime."""

    def __init__(self, model_file: Path = MODEL_FILE) -> None:
        self._session = open_session(model_file)

    def predict(self, rows: list[list[float]]) -> list[float]:
        (probabilities,) = self._session.run([OUTPUT], {INPUT: np.array(rows, np.float32)})
        return probabilities[:, 1].tolist()
