"""Before a job goes on from a state: what the pipeline's changes do to it; refuses those that would lose something."""

from collections.abc import Sequence
from typing import Any

from flink_jobs.console import CommandError, say
from flink_jobs.definitions import definition_of_restore_point
from flink_jobs.settings import Settings
from udfs.pipeline import Pipeline
from udfs.state_changes import BLOCKED, COMPUTED, KEPT, LOST, NOTE, REMOVED, WARMING, Change, changes_between

_STYLES = {WARMING: "yellow", LOST: "red", BLOCKED: "red"}
_ORDER = (BLOCKED, LOST, WARMING, COMPUTED, REMOVED, NOTE)


def changes_since(pipeline: Pipeline, shards: int, restore_point: str) -> list[Change] | None:
    """What becomes of the state in a checkpoint or savepoint; None where its definition is not known."""
    before = definition_of_restore_point(restore_point)
    return None if before is None else changes_between(before.definition, pipeline, shards)


def say_changes(changes: Sequence[Change]) -> None:
    """Tell what is not as it was; one line for all that is."""
    told = sorted((each for each in changes if each.effect != KEPT), key=lambda each: _ORDER.index(each.effect))
    renamed = [each for each in changes if each.effect == KEPT and "called" in each.text]
    kept = sum(each.effect == KEPT for each in changes)
    if not told and not renamed:
        return
    say(f"the pipeline changed since then; {kept} feature{'' if kept == 1 else 's'} keep their state, and:")
    width = max(len(each.name) for each in (*told, *renamed))
    for each in (*renamed, *told):
        say(f"  {each.effect:<9} {each.name:<{width}}  {each.text}", style=_STYLES.get(each.effect))


def check_changes(changes: Sequence[Change], name: str, accepted: Sequence[str]) -> None:
    """Refuse what would lose something that the user did not accept.

    Args:
        changes: From `changes_since`.
        name: Of the pipeline, as the user writes it.
        accepted: Names given with `--accept-loss`.

    Raises:
        CommandError: Says what would be lost and how to go on.
    """
    anew = f"`millrace run {name} --fresh --bootstrap-from earliest` builds the state anew from the topic"
    blocked = [each for each in changes if each.effect == BLOCKED]
    if blocked:
        raise CommandError(f"{blocked[0].name} changed: {blocked[0].text}; nothing was stopped. {anew}")
    lost = [each for each in changes if each.effect == LOST]
    unknown = [each for each in accepted if each not in {change.name for change in lost}]
    if unknown:
        would = f"; lost would be {', '.join(each.name for each in lost)}" if lost else ""
        raise CommandError(f"--accept-loss {unknown[0]}: nothing of it would be lost{would}")
    refused = [each for each in lost if each.name not in accepted]
    if refused:
        flags = " ".join(f"--accept-loss {each.name}" for each in refused)
        more = "" if len(refused) == 1 else f" (and {len(refused) - 1} more, above)"
        raise CommandError(
            f"state would be lost, so nothing was stopped or started: {refused[0].name}: {refused[0].text}{more}. "
            f"Add {flags} to accept it, or fill the windows from history: {anew}"
        )


def checked_changes(
    pipeline: Pipeline, name: str, settings: Settings, restore_point: str, accepted: Sequence[str]
) -> list[Change] | None:
    """What becomes of the state that a job is to go on from, told to the user; None where its definition is not known.

    Raises:
        CommandError: Something would be lost that was not accepted.
    """
    changes = changes_since(pipeline, settings.shards, restore_point)
    if changes is not None:
        say_changes(changes)
        if any(each.effect == WARMING for each in changes):
            say(
                f"`millrace run {name} --fresh --bootstrap-from earliest` fills these windows from history first, and "
                "goes on where the last run ended"
            )
        check_changes(changes, name, accepted)
    return changes


def changes_as_json(changes: Sequence[Change] | None) -> list[dict[str, Any]] | None:
    """For scripts."""
    return None if changes is None else [vars(each) for each in changes]
