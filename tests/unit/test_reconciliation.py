"""The account of the demo notices everything that can go wrong with an answer."""

from typing import Any

from flink_jobs.pipelines import load_pipeline
from flink_jobs.reconciliation import Ledger

PIPELINE = load_pipeline("purchase")


class Record:
    def __init__(
        self, topic: str, offset: int, headers: dict[str, Any], value: bytes = b"{}", time_ms: int = 1_000
    ) -> None:
        self._topic, self._offset, self._value, self._time_ms = topic, offset, value, time_ms
        self._headers = [(f"millrace-{name}", str(text).encode()) for name, text in headers.items()]

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes:
        return self._value

    def timestamp(self) -> tuple[int, int]:
        return 1, self._time_ms

    def headers(self) -> list[tuple[str, bytes]]:
        return self._headers


def ledger(*records: Record) -> Ledger:
    found = Ledger(PIPELINE, {(b"k", b"broken"): "not_json"})
    for record in records:
        found.add(record, 1_250)  # type: ignore[arg-type]
    return found


def event(offset: int, value: bytes = b"{}") -> Record:
    return Record("user-events", offset, {}, value)


def prediction(offset: int) -> Record:
    return Record("predictions", 90 + offset, {"pipeline": "purchase", "partition": 0, "offset": offset})


def dead_letter(offset: int, reason: str) -> Record:
    headers = {"pipeline": "purchase", "partition": 0, "offset": offset, "reason": reason}
    return Record("purchase-dead-letters", offset, headers)


def test_one_right_answer_for_each_event_holds_in_any_order() -> None:
    found = ledger(prediction(0), event(0), dead_letter(1, "not_json"), event(1, b"broken"))
    balance = found.balance()
    assert balance.holds
    assert (balance.produced, balance.predictions, balance.dead_letters) == (2, 1, 1)
    assert found.latencies_ms().tolist() == [250.0]


def test_event_without_an_answer_is_missing() -> None:
    balance = ledger(event(0), event(1), prediction(1)).balance()
    assert balance.missing == 1
    assert not balance.holds


def test_second_answer_is_a_duplicate() -> None:
    balance = ledger(event(0), prediction(0), prediction(0)).balance()
    assert (balance.predictions, balance.duplicated) == (1, 1)
    assert not balance.holds


def test_prediction_and_dead_letter_of_one_event_are_a_duplicate() -> None:
    assert ledger(event(0), prediction(0), dead_letter(0, "not_json")).balance().duplicated == 1


def test_good_event_as_a_dead_letter_is_unexpected() -> None:
    assert (
        "model_failed instead of a prediction"
        in ledger(event(0), dead_letter(0, "model_failed")).balance().unexpected[0]
    )


def test_broken_event_with_a_prediction_or_another_reason_is_unexpected() -> None:
    assert ledger(event(0, b"broken"), prediction(0)).balance().unexpected
    assert ledger(event(0, b"broken"), dead_letter(0, "wrong_type")).balance().unexpected


def test_answer_to_no_event_is_unexpected() -> None:
    assert ledger(event(0), prediction(0), prediction(7)).balance().unexpected == ("an answer to no event: (0, 7)",)


def test_answers_of_another_pipeline_are_not_counted() -> None:
    other = Record("predictions", 5, {"pipeline": "fraud", "partition": 0, "offset": 0})
    assert ledger(event(0), prediction(0), other).balance().holds
