"""The shipped pipeline: will this shopper buy within the next half hour?"""

from typing import Literal

from udfs.pipeline import (
    Count,
    Distinct,
    Events,
    Ewma,
    Max,
    Mean,
    Model,
    OneHot,
    Pipeline,
    Ratio,
    SinceLast,
    Std,
    Sum,
    Value,
    field,
)


class PageView:
    """A shopper looked at a page."""

    event_id: str
    user_id: str
    page_id: Literal["home", "product", "checkout", "search"]
    dwell_time_sec: float
    timestamp: int


at_checkout = field("page_id") == "checkout"
at_product = field("page_id") == "product"

pipeline = Pipeline(
    name="purchase",
    events=Events(PageView, topic="user-events", partitions=3, entity="user_id", time="timestamp", id="event_id"),
    features=[
        Value("dwell_time_sec"),
        OneHot("page_id"),
        Count(window="10m"),
        Count(window="1h"),
        Count(where=at_product, window="1h"),
        Count(where=at_checkout, window="1h"),
        Ratio(Count(where=at_product, window="1h"), Count(window="1h")),
        Sum("dwell_time_sec", window="10m"),
        Mean("dwell_time_sec", window="1h"),
        Max("dwell_time_sec", window="1h"),
        Std("dwell_time_sec", window="1h"),
        Ewma("dwell_time_sec", window="1h", half_life="5m"),
        Distinct("page_id", window="1h"),
        SinceLast(window="1h"),
        SinceLast(where=at_checkout, window="1h"),
    ],
    model=Model("purchase", version=2),
    prediction="purchase_probability",
    predictions="predictions",
    dead_letters="purchase-dead-letters",
)
