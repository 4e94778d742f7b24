"""A pipeline whose events come from three topics, none keyed by its entity: clicks, orders, and a table's changes."""

from typing import Literal

from udfs.pipeline import Count, Debezium, Events, Mean, Model, Pipeline, Source, Sum, Value, field


class ShopEvent:
    """What a customer did."""

    event_id: str
    customer: str
    kind: Literal["click", "order", "address"]
    at: int
    page: str | None
    amount: float | None


def shop_pipeline(name, model=None, **changes):
    """The pipeline with topics of its own."""
    sources = [
        Source(f"{name}-clicks", fields={"event_id": "@place", "customer": "user.id"}, constants={"kind": "click"}),
        Source(
            f"{name}-orders",
            fields={"event_id": "order_id", "customer": "@key", "at": "time_s", "page": "referrer"},
            constants={"kind": "order"},
            time_unit="s",
        ),
        Source(
            f"{name}-addresses",
            fields={"event_id": "id", "customer": "customer_id", "at": "@ts_ms"},
            constants={"kind": "address", "page": None, "amount": None},
            changes=Debezium(operations=("create", "update", "delete")),
        ),
    ]
    events = Events(
        ShopEvent, topic=f"{name}-events", partitions=2, entity="customer", time="at", id="event_id", sources=sources
    )
    return Pipeline(
        name=name,
        events=events,
        features=[
            Count(window="1h"),
            Count(where=field("kind") == "order", window="1h"),
            Sum("amount", window="1h"),
            Mean("amount", window="1d"),
            Value("amount"),
        ],
        model=model or Model("shop", version=1),
        prediction="score",
        predictions=f"{name}-predictions",
        dead_letters=f"{name}-dead-letters",
        include_features=True,
        **changes,
    )
