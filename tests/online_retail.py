"""Real order lines of an online shop as a second pipeline: ties, duplicates, cancellations, missing customers.

The data: ../shared/data/online_retail (its README says where from). Times have minutes only and are taken as UTC; the
lines of an order share a minute, so `since_last` is 0 within an order and counts from the last one at its first line.
"""

import csv
import gzip
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from udfs.pipeline import Count, Distinct, Events, Mean, Model, Pipeline, SinceLast, Sum, Value, field

FILE = Path(__file__).parents[2] / "shared" / "data" / "online_retail" / "online_retail.csv.gz"
DAY_MS = 86_400_000
HORIZON_MS = 30 * DAY_MS


class OrderLine(msgspec.Struct, gc=False, omit_defaults=True):
    """A line of an order; `customer_id` is left out where the shop did not know it."""

    line_id: str
    invoice: str
    product: str
    quantity: int
    price: float
    cancelled: bool
    time: int
    customer_id: str | None = None


class RetailEvent:
    line_id: str
    customer_id: str
    invoice: str
    product: str
    quantity: int
    price: float
    cancelled: bool
    time: int


ordered = field("cancelled") == False  # noqa: E712  # a condition on a field, not a truth value


def window_features(window, tile=None):
    """What is asked of one window; exact without a tile."""
    at = {"window": window, "tile": tile}
    return [
        Count(**at),
        Count(where=ordered, **at),
        Sum("quantity", **at),
        Mean("price", **at),
        Distinct("product", **at),
        SinceLast(where=ordered, **at),
    ]


RETAIL = Pipeline(
    name="retail",
    events=Events(RetailEvent, topic="order-lines", partitions=3, entity="customer_id", time="time", id="line_id"),
    features=[
        Value("quantity"),
        Value("price"),
        *window_features("1d"),
        *window_features("7d"),
        *window_features("30d"),
        *window_features("1d", tile="1h"),
        *window_features("7d", tile="1h"),
        *window_features("30d", tile="1d"),
    ],
    model=Model("retail", version=1),
    prediction="orders_again_probability",
    predictions="retail-predictions",
)


def is_there() -> bool:
    """Whether the data is; tests skip without it."""
    return FILE.is_file()


@cache
def _time_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000


def _rows() -> Iterator[tuple[int, list[str]]]:
    with gzip.open(FILE, "rt", encoding="utf-8", newline="") as lines:
        reader = csv.reader(lines)
        next(reader)
        yield from enumerate(reader)


def _line(number: int, row: list[str]) -> OrderLine:
    invoice, product, _, quantity, time, price, customer, _ = row
    return OrderLine(
        line_id=str(number),
        invoice=invoice,
        product=product,
        quantity=int(quantity),
        price=float(price),
        cancelled=invoice.startswith("C"),
        time=_time_ms(time),
        customer_id=customer.removesuffix(".0") or None,
    )


def retail_lines(limit: int | None = None) -> list[OrderLine]:
    """The first lines, those without a customer included; all without a limit (541,909)."""
    return [_line(number, row) for number, row in islice(_rows(), limit)]


def lines_of(customers: Collection[str]) -> list[OrderLine]:
    """Every line of some customers over the whole year."""
    wanted = {f"{customer}.0" for customer in customers}
    return [_line(number, row) for number, row in _rows() if row[6] in wanted]


def every_nth_customer(step: int) -> set[str]:
    """Customers whose number is divisible: a sample that does not depend on the order of the lines."""
    return {str(number) for number in range(12_000, 18_500) if number % step == 0}


def retail_records(limit: int | None = None) -> list[tuple[bytes | None, bytes]]:
    """Kafka key and value of the first lines; a line without a customer has no key and no `customer_id`."""
    encode = msgspec.json.Encoder().encode
    return [(each.customer_id and each.customer_id.encode(), encode(each)) for each in retail_lines(limit)]


def orders_again(lines: list[OrderLine]) -> np.ndarray:
    """What came of each line, from all lines of their customers.

    Returns:
        (n,) int8: 1 if the customer places another order (not cancelled) later and within 30 days, 0 if not, -1 if the
        data ends before that can be known or the customer is not.
    """
    order_times: dict[str | None, list[int]] = {}
    for line in lines:
        if not line.cancelled:
            order_times.setdefault(line.customer_id, []).append(line.time)
    end_ms = max(line.time for line in lines) - HORIZON_MS
    labels = np.full(len(lines), -1, np.int8)
    for place, line in enumerate(lines):
        if line.customer_id is None or line.time > end_ms:
            continue
        times = order_times.get(line.customer_id, [])
        after = int(np.searchsorted(times, line.time, side="right"))  # the lines are in order of time
        labels[place] = after < len(times) and times[after] <= line.time + HORIZON_MS
    return labels
