"""The HTTP front: a request in, a record to the job, its reply out.

    POST /score             -> here, at once: FastAPI's layers took half of the front's time at 1,000 requests/s
    /health/..., the page   -> FastAPI

What it takes and gives, and what its page says of that, follows from the pipeline.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, NamedTuple

import msgspec
from fastapi import FastAPI, Response

from flink_jobs.kafka_admin import KafkaAdminError
from flink_jobs.score_client import Answer, ClientBusyError, ClientClosedError, RequestRefusedError, ScoreClient
from flink_jobs.settings import Settings
from models.outputs import Label, Output, Vector
from udfs.pipeline import Pipeline
from udfs.request_reader import AfterEvent, asked_types
from udfs.requests import MOST_REQUEST_BYTES, required_fields

MOST_TIMEOUT_MS = 60_000
_CHECKED_S = 1.0
STATUS = {
    "unknown_entity": 404, "stale": 503, "too_large": 413, "unknown_field": 422, "missing_field": 422,
    "wrong_type": 422, "unknown_category": 422, "invalid_time": 422, "not_json": 400, "key_mismatch": 422,
}  # fmt: skip
"""By the reason of a refusal; 502 for all others, which say that the model or a feature failed."""


_STATUS_TEXTS = {
    400: "The body is no JSON", 404: "Nothing is kept of the entity", 413: "The body is too large",
    422: "The request is not as described", 429: "Too many requests at once", 502: "The model has no score",
    503: "Kafka or the job cannot be reached in time", 504: "No reply in time",
}  # fmt: skip
_ERROR: dict[str, Any] = {
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "error": {
                        "type": "object",
                        "properties": {"reason": {"type": "string"}, "detail": {"type": "string"}},
                    }
                },
            }
        }
    }
}
_Timeout = Annotated[int, msgspec.Meta(ge=1, le=MOST_TIMEOUT_MS)]
_SCORE = "/score"
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class _Reply(NamedTuple):
    status: int
    content: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class _RefusedError(Exception):
    def __init__(self, status: int, reason: str, detail: str) -> None:
        self.status, self.reason, self.detail = status, reason, detail


def create_app(pipeline: Pipeline, settings: Settings, *, most_in_flight: int, timeout_ms: int) -> App:
    """The application, of ASGI.

    Args:
        pipeline: Has `requests`.
        settings: Where Kafka is.
        most_in_flight: More requests at once are told to come again (429).
        timeout_ms: How long to wait for a reply, unless the request says less or more.
    """
    client = ScoreClient(pipeline, settings, most_waiting=most_in_flight)
    decoder: Any = msgspec.json.Decoder(_body_type(pipeline))
    ready_until_s = 0.0

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(
        title=f"millrace: {pipeline.name}",
        description=f"Scores of {pipeline.events.entity}: {pipeline.outputs.text}, as an event with the given fields "
        "would get it.",
        lifespan=lifespan,
    )

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "live"}

    @app.get("/health/ready", responses={503: _ERROR})
    async def ready() -> Response:
        """Whether requests can be sent and replies are read."""
        nonlocal ready_until_s
        if not client.is_open:
            return _not_ready("the topic of replies is not read")
        if time.monotonic() > ready_until_s:
            if not await client.answers_kafka():
                return _not_ready("no Kafka broker answers, or the topic of requests is not there")
            ready_until_s = time.monotonic() + _CHECKED_S
        return Response(_ENCODE({"status": "ready"}), media_type="application/json")

    async def score(receive: Receive) -> _Reply:
        try:
            asked = decoder.decode(await _body(receive))
            fields = {name: value for name, value in msgspec.structs.asdict(asked.fields).items() if _given(value)}
            wait_ms = timeout_ms if asked.timeout_ms is None else asked.timeout_ms
            after = None if asked.after is None else (asked.after.partition, asked.after.offset)
            answer = await client.score(
                asked.entity, fields, as_of=asked.as_of, after=after, timeout=wait_ms / 1_000
            )
        except _RefusedError as refusal:
            return _refused(refusal.status, refusal.reason, refusal.detail)
        except msgspec.ValidationError as error:
            return _refused(422, "wrong_request", str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return _refused(400, "not_json", str(error))
        except RequestRefusedError as error:
            return _refused(STATUS.get(error.reason, 502), error.reason, error.detail)
        except ClientBusyError as error:
            return _refused(429, "busy", str(error), _AGAIN)
        except TimeoutError:
            return _refused(504, "timeout", f"the job did not answer within {wait_ms} ms")
        except (ClientClosedError, KafkaAdminError):  # what Kafka's client says may name hosts and users
            return _refused(503, "not_ready", "Kafka cannot be reached", _AGAIN)
        return _Reply(200, _ENCODE(_told(answer)))

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != _SCORE:
            await app(scope, receive, send)
        elif scope["method"] != "POST":
            await _answer(send, _refused(405, "wrong_method", f"POST to {_SCORE}", ((b"allow", b"POST"),)))
        else:
            await _answer(send, await score(receive))

    def described() -> dict[str, Any]:
        page = FastAPI.openapi(app)
        page["paths"][_SCORE] = {"post": operation}
        return page

    operation = _openapi(pipeline)
    app.openapi = described  # type: ignore[method-assign]
    return front


def _given(value: object) -> bool:
    return value is not msgspec.UNSET


async def _body(receive: Receive) -> bytes:
    """The body, unless it is larger than a request may be."""
    body, is_more = b"", True
    while is_more:
        part = await receive()
        if part["type"] == "http.disconnect":
            raise _RefusedError(400, "not_json", "the body ended early")
        body += part.get("body", b"")
        if len(body) > MOST_REQUEST_BYTES:
            raise _RefusedError(413, "too_large", f"the body has more than {MOST_REQUEST_BYTES} bytes")
        is_more = part.get("more_body", False)
    return body


async def _answer(send: Send, reply: _Reply) -> None:
    length = str(len(reply.content)).encode()
    headers = [(b"content-length", length), (b"content-type", b"application/json"), *reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.content})


def _told(answer: Answer) -> dict[str, Any]:
    told: dict[str, Any] = {
        "request_id": answer.request_id, "entity": answer.entity, **answer.outputs, "as_of": answer.as_of_ms,
        "scored_at": answer.scored_at_ms,
    }  # fmt: skip
    if answer.features:
        told["features"] = answer.features
    named = {name: answer.receipt[name] for name in _RECEIPT if answer.receipt.get(name)}
    return told | {"model": named}


_RECEIPT = ("model", "model-version", "model-sha256", "role", "fallback", "flags", "warming")
_ENCODE = msgspec.json.Encoder().encode


_AGAIN = ((b"retry-after", b"1"),)


def _refused(status: int, reason: str, detail: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> _Reply:
    return _Reply(status, _ENCODE({"error": {"reason": reason, "detail": detail}}), headers)


def _not_ready(detail: str) -> Response:
    reply = _refused(503, "not_ready", detail)
    return Response(reply.content, reply.status, media_type="application/json")


# what a body may be, and what the page says of it


def _body_type(pipeline: Pipeline) -> Any:
    fields, entity = asked_types(pipeline)
    given: list[Any] = [
        ("entity", entity),
        ("fields", fields, msgspec.field(default_factory=fields)),
        ("as_of", int | None, None),
        ("after", AfterEvent | None, None),
        ("timeout_ms", _Timeout | None, None),
    ]
    return msgspec.defstruct("ScoreRequest", given, forbid_unknown_fields=True, gc=False)


def _openapi(pipeline: Pipeline) -> dict[str, Any]:
    """How the page describes `POST /score`."""
    (body,), parts = msgspec.json.schema_components([_body_type(pipeline)], ref_template="#/$defs/{name}")
    schema = _without_references(body, parts)
    needed = ", ".join(required_fields(pipeline)) or "none"
    schema["properties"]["fields"]["description"] = f"Fields of the event; needed: {needed}. Others may be left out."
    schema["properties"]["after"]["description"] = "An event of the entity, by its place, that must be counted."
    schema["properties"]["as_of"]["description"] = "Ms since 1970; by default when the request was sent."
    answer: dict[str, Any] = {
        "request_id": {"type": "string"}, "entity": schema["properties"]["entity"],
        **{one.name: _described(one) for one in pipeline.outputs.each},
        "as_of": {"type": "integer"}, "scored_at": {"type": "integer"},
        "model": {"type": "object"},
    }  # fmt: skip
    if pipeline.include_features:
        number = {"type": ["number", "null"]}
        answer["features"] = {"type": "object", "properties": dict.fromkeys(pipeline.feature_names, number)}
    content = {"application/json": {"schema": {"type": "object", "properties": answer}}}
    return {
        "summary": "Score",
        "description": "Score an entity.",
        "operationId": "score",
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": {"description": "The score", "content": content},
            **{str(status): {"description": text, **_ERROR} for status, text in _STATUS_TEXTS.items()},
        },
    }


def _described(output: Output) -> dict[str, Any]:
    if isinstance(output, Label):
        return {"enum": list(output.classes)}
    number = {"type": "number"}
    if isinstance(output, Vector):
        return {"type": "array", "items": number, "minItems": output.size, "maxItems": output.size}
    return number


def _without_references(schema: Any, parts: dict[str, Any]) -> Any:
    """A schema with what it refers to in its place."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _without_references(parts[schema["$ref"].rpartition("/")[2]], parts)
        # the default of `fields` is an object that no JSON can hold
        return {name: _without_references(each, parts) for name, each in schema.items() if name != "default"}
    return [_without_references(each, parts) for each in schema] if isinstance(schema, list) else schema
