"""What a definition says, checked: names, numbers and times."""

import re

from udfs.errors import DefinitionError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")


def check_name(name: str, setting: str) -> None:
    """Refuse what is no name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DefinitionError(f"{setting} is {name!r}; write lower-case letters, digits, '-' and '_', like 'purchase'")


def check_count(number: int, setting: str, least: int) -> None:
    """Refuse what is no whole number, or a smaller one."""
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise DefinitionError(f"{setting} is {number!r}; write a whole number from {least} on")


def check_budget(budget_ms: float | None, setting: str) -> None:
    """Refuse what is no time in ms."""
    if budget_ms is None:
        return
    if isinstance(budget_ms, bool) or not isinstance(budget_ms, int | float) or not 0 < budget_ms < 1e9:
        raise DefinitionError(f"{setting} is {budget_ms!r}; write milliseconds, like 50")
