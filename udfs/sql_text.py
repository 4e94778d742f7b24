"""Pieces of SQL text: names, constants, intervals, and conditions with the two-valued logic of `udfs.conditions`."""

from collections.abc import Mapping

from udfs.conditions import Both, Comparison, Condition, Constant, Either, IsIn, IsNull, Negation
from udfs.durations import UNITS_MS
from udfs.errors import DefinitionError
from udfs.events import EventField

LONGEST_INTERVAL_MS = 1_000 * UNITS_MS["d"]
"""Flink takes three digits of days."""
_BIGINT = range(-(2**63), 2**63)
_OPERATORS = {"==": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


def quoted(name: str) -> str:
    """A name as an identifier."""
    return "`" + name.replace("`", "``") + "`"


def text_literal(text: str) -> str:
    """A text as a constant."""
    return "'" + text.replace("'", "''") + "'"


def double_literal(number: float) -> str:
    """A number as a DOUBLE."""
    mantissa, _, exponent = repr(float(number)).partition("e")
    if "inf" in mantissa:
        return f"CAST('{'-' if number < 0 else ''}Infinity' AS DOUBLE)"
    return f"{mantissa}E{int(exponent or 0)}"


def interval(duration_ms: int) -> str:
    """A duration as an INTERVAL; at most `LONGEST_INTERVAL_MS`."""
    days, rest = divmod(duration_ms, UNITS_MS["d"])
    hours, rest = divmod(rest, UNITS_MS["h"])
    minutes, rest = divmod(rest, UNITS_MS["m"])
    seconds, ms = divmod(rest, UNITS_MS["s"])
    return f"INTERVAL '{days} {hours:02}:{minutes:02}:{seconds:02}.{ms:03}' DAY(3) TO SECOND(3)"


def number(field: EventField) -> str:
    """A field as a DOUBLE."""
    name = quoted(field.name)
    if field.kind == "bool":
        return f"CASE WHEN {name} THEN 1E0 WHEN NOT {name} THEN 0E0 END"
    return name if field.kind == "float" else f"CAST({name} AS DOUBLE)"


def condition_text(condition: Condition, fields: Mapping[str, EventField]) -> str:
    """A condition that is TRUE or FALSE, never NULL.

    Raises:
        DefinitionError: A whole number in it does not fit SQL's BIGINT.
    """
    if isinstance(condition, Negation):
        return f"NOT ({condition_text(condition.condition, fields)})"
    if isinstance(condition, Both | Either):
        word = "AND" if isinstance(condition, Both) else "OR"
        return f"({condition_text(condition.left, fields)}) {word} ({condition_text(condition.right, fields)})"
    [name] = condition.fields
    field = fields[name]
    if isinstance(condition, IsNull):
        return f"{quoted(name)} IS NULL"
    if isinstance(condition, IsIn):
        parts = [_comparison(field, "==", value) for value in condition.values]
        text = f"({' OR '.join(parts)})" if len(parts) > 1 else parts[0]
    else:
        assert isinstance(condition, Comparison)
        text = _comparison(field, condition.operator, condition.value)
    return f"({text}) IS TRUE" if field.nullable else text


def _comparison(field: EventField, operator: str, value: Constant) -> str:
    if isinstance(value, str):
        return f"{quoted(field.name)} {_OPERATORS[operator]} {text_literal(value)}"
    if field.kind == "bool" and isinstance(value, bool) and operator in ("==", "!="):
        return quoted(field.name) if value == (operator == "==") else f"NOT {quoted(field.name)}"
    if isinstance(value, float) or field.kind != "int":
        return f"{number(field)} {_OPERATORS[operator]} {double_literal(value)}"
    if int(value) not in _BIGINT:
        raise DefinitionError(f"it compares with {value}, more than a BIGINT of SQL holds")
    return f"{quoted(field.name)} {_OPERATORS[operator]} {int(value)}"
