"""A shop whose pipeline breaks on some of its events, and the same pipeline mended."""

from dataclasses import replace

from flink_jobs.pipelines import load_pipeline
from udfs.pipeline import Count, Custom, Sum, Value

PURCHASE = load_pipeline("purchase")
UNLUCKY = 13.0


class LongestLook(Custom):
    """The longest look of the window; it cannot stand an unlucky number among them."""

    def init(self):
        return []

    def add(self, state, value, event_time_ms):
        if value == UNLUCKY:
            raise ZeroDivisionError("unlucky")
        return [*state, value]

    def value(self, state):
        return max(state)


class AnyPage:
    """The event with pages that the first version does not know."""

    event_id: str
    user_id: str
    page_id: str
    dwell_time_sec: float
    timestamp: int


def fragile(name, model=PURCHASE.model):
    """Fails on unlucky looks, unknown pages and records of more than 150 kB."""
    return replace(
        PURCHASE,
        name=name,
        events=replace(PURCHASE.events, topic=f"{name}-events"),
        features=[LongestLook("dwell_time_sec", window="1m"), Count(window="1h"), Sum("dwell_time_sec", window="1h"),
                  Value("dwell_time_sec")],
        model=model,
        predictions=f"{name}-predictions",
        dead_letters=f"{name}-dead-letters",
        include_features=True,
        max_record_bytes=150_000,
    )  # fmt: skip


def mended(pipeline):
    """It knows all pages, and takes larger records."""
    return replace(pipeline, events=replace(pipeline.events, type=AnyPage), max_record_bytes=400_000)
