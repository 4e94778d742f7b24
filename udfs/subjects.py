"""Under which subject a registry has the schemas of a topic's records."""

from udfs.events import Events
from udfs.formats import Json, SubjectStrategy
from udfs.output_fields import OutputValues


def subject_of(topic: str, record: str, strategy: SubjectStrategy = "topic") -> str:
    """The subject of a topic's values.

    Args:
        topic: Where the records are.
        record: Full name of their type.
        strategy: Which of the two names it.
    """
    return {"topic": f"{topic}-value", "record": record, "topic-record": f"{topic}-{record}"}[strategy]


def events_subject(events: Events) -> str:
    """Of a pipeline's events; by the event class's name where records' names count."""
    strategy: SubjectStrategy = "topic" if isinstance(events.format, Json) else events.format.subject_strategy
    return subject_of(events.topic, events.type.__name__, strategy)


def output_subject(values: OutputValues) -> str:
    """Of what a job writes."""
    strategy: SubjectStrategy = "topic" if isinstance(values.form, Json) else values.form.subject_strategy
    return subject_of(values.topic, values.record, strategy)
