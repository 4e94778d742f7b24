"""What a run has to do where a state from history was asked for, is unfinished, or is in the job already."""

import shlex
from collections.abc import Mapping
from enum import Enum
from typing import Any

from flink_jobs.console import CommandError
from flink_jobs.hand_over import Begun, HandOver


class Way(Enum):
    """How a run begins."""

    ORDINARY = "as without a state from history"
    RESTORE = "from a checkpoint of the job that has the state"
    HAND_OVER = "with the state, at the offsets where history ended"
    BUILD = "build the state, then as HAND_OVER"


def choose_way(
    *,
    name: str,
    asked: Mapping[str, Any] | None,
    start_from: str | None,
    fresh: bool,
    begun: Begun | None,
    hand_over: HandOver | None,
    restore_point: str | None,
) -> Way:
    """How to begin.

    Args:
        name: Of the pipeline, as the user writes it.
        asked: Arguments of `--bootstrap-from`; None without it.
        start_from: `--from`.
        fresh: `--fresh`.
        begun: What an earlier run began.
        hand_over: What it finished.
        restore_point: The newest checkpoint or savepoint; none of those before the hand-over.

    Raises:
        CommandError: What is asked contradicts what is there; says how to go on, and how to begin anew.
    """
    if fresh:
        return Way.ORDINARY if asked is None else Way.BUILD
    if begun is None:
        if asked is not None and restore_point is not None:
            raise CommandError(
                f"{name} has run before ({restore_point}) and would go on from there: leave out --bootstrap-from, or "
                "give --fresh to forget that state and build one from history"
            )
        return Way.ORDINARY if asked is None else Way.BUILD
    if asked is None and start_from is not None:
        return Way.ORDINARY
    if asked is not None:
        _check_same(name, asked, begun)
    if hand_over is None:
        if asked is None:
            raise CommandError(
                f"a state from history is unfinished: `{command_of(name, begun)}` goes on with it, --fresh throws it "
                "away"
            )
        return Way.BUILD
    if restore_point is not None:
        return Way.RESTORE
    if hand_over.used:
        raise CommandError(
            "the job was given a state from history, but its checkpoints are gone: build it anew with "
            f"`{command_of(name, begun)} --fresh`"
        )
    return Way.HAND_OVER


def command_of(name: str, begun: Begun) -> str:
    """The command that began it, without --fresh."""
    source, options = begun.arguments["source"], []
    for each in source.get("files") or [source["start"]]:
        options += ["--bootstrap-from", each]
    if begun.arguments["order_by"] is not None:
        options += ["--order-by", begun.arguments["order_by"]]
    if begun.arguments["from"] is not None:
        options += ["--from", begun.arguments["from"]]
    return shlex.join(["millrace", "run", name, *options])


def _check_same(name: str, asked: Mapping[str, Any], begun: Begun) -> None:
    words = {"source": "--bootstrap-from", "order_by": "--order-by", "from": "--from", "shards": "number of shards"}
    for argument, wanted in asked.items():
        if begun.arguments.get(argument) == wanted:
            continue
        if argument == "definition":
            raise CommandError(
                "the features changed since this state from history was begun: "
                f"`{command_of(name, begun)} --fresh` builds it anew, with full windows"
            )
        raise CommandError(
            f"a state from history was begun with another {words.get(argument, argument)}: "
            f"`{command_of(name, begun)}` goes on with it, --fresh builds the new one"
        )
