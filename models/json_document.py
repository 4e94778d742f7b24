"""A JSON document read key by key: every error says which document and which key, and what to write instead."""

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

Value = TypeVar("Value")
SHA256 = re.compile(r"[0-9a-f]{64}")


class ModelRefusedError(ValueError):
    """The model's files are not something Millrace opens (digest, format, external data, custom operators …)."""


class ModelUnreachableError(RuntimeError):
    """Where the models are kept does not answer or says no: a later try may succeed."""


class JsonObject:
    """One JSON object with the path to it, so that every error can say where it is."""

    def __init__(self, content: Any, where: str, path: str = "") -> None:
        self.content, self.where, self.path = content, where, path
        if not isinstance(content, dict):
            message = f"{where}: {path.rstrip('.') or 'the document'} must be a JSON object"
            raise ModelRefusedError(message)

    def refuse(self, key: str, advice: str) -> NoReturn:
        """Refuse the value of a key."""
        message = f"{self.where}: {self.path}{key} is {self.content.get(key)!r:.80}: {advice}"
        raise ModelRefusedError(message)

    def only(self, *keys: str) -> None:
        """Refuse keys other than these."""
        for key in self.content:
            if key not in keys:
                self.refuse(key, f"unknown key; known here: {', '.join(keys)}")

    def value(self, key: str) -> Any:
        """The value of a key that must be there."""
        if key not in self.content:
            message = f"{self.where}: {self.path}{key} is missing"
            raise ModelRefusedError(message)
        return self.content[key]

    def text(self, key: str, pattern: re.Pattern[str] | None = None) -> str:
        """A text, of this form where one is given."""
        value = self.value(key)
        if not isinstance(value, str):
            self.refuse(key, "must be a text")
        if pattern is not None and not pattern.fullmatch(value):
            self.refuse(key, f"must look like {pattern.pattern}")
        return value

    def whole(self, key: str, *, least: int) -> int:
        """A whole number, `least` or more."""
        value = self.value(key)
        if type(value) is not int or value < least:
            self.refuse(key, f"must be a whole number, {least} or more")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of different texts, none empty."""
        value = self.value(key)
        if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
            self.refuse(key, "must be a list of texts")
        if len(set(value)) != len(value):
            self.refuse(key, "names something twice")
        return tuple(value)

    def number(self, key: str) -> float:
        """A number."""
        value = self.value(key)
        if type(value) not in (int, float):
            self.refuse(key, "must be a number")
        return float(value)

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of numbers."""
        value = self.value(key)
        if not isinstance(value, list) or not all(type(each) in (int, float) for each in value):
            self.refuse(key, "must be a list of numbers, or null")
        return tuple(float(each) for each in value)

    def optional(self, key: str, read: Callable[[str], Value]) -> Value | None:
        """What `read` makes of the key, or None for null."""
        return None if self.value(key) is None else read(key)

    def object(self, key: str) -> "JsonObject":
        """An object inside this one."""
        return JsonObject(self.value(key), self.where, f"{self.path}{key}.")

    def objects(self, key: str) -> list["JsonObject"]:
        """A list of objects inside this one."""
        value = self.value(key)
        if not isinstance(value, list):
            self.refuse(key, "must be a list")
        return [JsonObject(each, self.where, f"{self.path}{key}[{place}].") for place, each in enumerate(value)]


def read_object(text: str | bytes, where: str) -> JsonObject:
    """Parse a document that is one JSON object.

    Args:
        text: The JSON.
        where: What an error calls the document, normally its path.

    Returns:
        The object.

    Raises:
        ModelRefusedError: Not JSON, not an object, a key twice in one object, or NaN or infinity as a number.
    """
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        message = f"{where}: not JSON that Millrace reads: {error}"
        raise ModelRefusedError(message) from error
    return JsonObject(content, where)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        message = f"a key stands twice in {{{', '.join(key for key, _ in pairs)}}}"
        raise ValueError(message)
    return content


def _no_constant(name: str) -> NoReturn:
    message = f"{name} is not a JSON number"
    raise ValueError(message)
