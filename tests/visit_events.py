"""Visits of a shop, and a pipeline that looks at the last ones of a visitor and at their sessions."""

from dataclasses import dataclass
from typing import Literal

from udfs.pipeline import (
    Events,
    LastN,
    Model,
    Pipeline,
    SequenceLength,
    SessionCount,
    SessionDuration,
    SessionPause,
    SessionPosition,
    Sessions,
)

PAGES = ("home", "cart", "pay")
LAST = {"n": 5, "window": "1h", "pad": "right", "fill": 0}
GAP = {"gap": "10s", "window": "1h"}


@dataclass
class Visit:
    id: str
    user: str
    page: Literal["home", "cart", "pay"]
    amount: float
    at: int


def visits(name, root=None, **changes):
    """The pipeline; its model is `gru/1` in a folder."""
    settings = {"sessions": Sessions(gap="10s", lateness="5s", idle="5s"), **changes}
    return Pipeline(
        name=name,
        events=Events(Visit, topic=f"{name}-events", entity="user", time="at", id="id"),
        features=[
            LastN("amount", **LAST), LastN("page", **LAST), SequenceLength(n=5, window="1h"),
            *(kind(**GAP) for kind in (SessionPosition, SessionDuration, SessionPause, SessionCount)),
        ],
        model=Model("gru", version=1, root=root),
        prediction="score",
        predictions=f"{name}-predictions",
        include_features=True,
        **settings,
    )  # fmt: skip
