"""Under which subject a registry has the schemas of a topic's records."""

from udfs.events import Events
from udfs.formats import Json, SubjectStrategy
from udfs.pipeline import Pipeline
from udfs.schema_texts import prediction_record_name


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


def predictions_subject(pipeline: Pipeline) -> str:
    """Of a pipeline's predictions."""
    form = pipeline.output_format
    strategy: SubjectStrategy = "topic" if isinstance(form, Json) else form.subject_strategy
    return subject_of(pipeline.predictions, prediction_record_name(pipeline), strategy)
