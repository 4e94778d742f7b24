"""A state built from history on its way into a job: where it is, where live begins, and whether the job has it by now.

    begun.json         what was asked, and where history ends: fixed at the first start
    state/             a file of every shard, and .state.backfill beside it while they are made
    handed_over.json   the state is all there; then, that a checkpoint of the job holds it and the files are gone

A job that was given the state and has no checkpoint yet begins again with the same files at the same offsets.
"""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flink_jobs.backfill_request import alone
from flink_jobs.documents import read_document, write_document
from flink_jobs.job_run import pipeline_checkpoints
from flink_jobs.settings import Settings
from flink_jobs.state_files import StateFile
from udfs.pipeline import Pipeline


@dataclass(frozen=True)
class Begun:
    """A bootstrap from its first start on.

    Attributes:
        arguments: All that its result depends on, as plain data.
        begins: First offset of the history in each partition; None for files.
        live: Offset of the first live record in each partition.
        live_text: Says to the user where that is.
        last_run: The newest checkpoint or savepoint then.
    """

    arguments: dict[str, Any]
    begins: dict[int, int] | None
    live: dict[int, int]
    live_text: str
    last_run: str | None


@dataclass(frozen=True)
class HandOver:
    """A state that is all there.

    Attributes:
        begun: Its beginning.
        digests: sha256 of each shard's file.
        facts: What was counted.
        before: Checkpoints and savepoints that were there before, of jobs without this state.
        used: Whether a checkpoint of the job holds the state; then the files are gone.
    """

    begun: Begun
    digests: list[str]
    facts: dict[str, Any]
    before: list[str]
    used: bool = False

    @property
    def row_ends(self) -> dict[str, dict[int, int]]:
        """By topic of lookups and partition, where it ended when the state was built."""
        return {topic: _by_number(ends) for topic, ends in self.facts.get("row_ends", {}).items()}


class HandOverFolder:
    """A pipeline's folder for a state from history.

    Args:
        path: It need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.target = path / "state"
        self._begun, self._handed_over = path / "begun.json", path / "handed_over.json"

    def begun(self) -> Begun | None:
        """The bootstrap that was begun last."""
        document = read_document(self._begun)
        return None if document is None else _begun(document)

    def hand_over(self) -> HandOver | None:
        """The state that is all there."""
        document = read_document(self._handed_over)
        return None if document is None else HandOver(**{**document, "begun": _begun(document["begun"])})

    def begin(self, begun: Begun) -> None:
        """Fix what is asked."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_document(self._begun, dataclasses.asdict(begun))

    def finish(self, hand_over: HandOver) -> None:
        """Say that all files are there."""
        write_document(self._handed_over, dataclasses.asdict(hand_over))

    def files(self, hand_over: HandOver) -> list[StateFile]:
        """The files of all shards."""
        names = (f"{shard:03d}.state" for shard in range(len(hand_over.digests)))
        return [StateFile(self.target / name, digest) for name, digest in zip(names, hand_over.digests, strict=True)]

    def mark_used(self) -> None:
        """A checkpoint holds the state: no file of it is needed any more."""
        hand_over = self.hand_over()
        if hand_over is not None and not hand_over.used:
            self.finish(dataclasses.replace(hand_over, used=True))
        shutil.rmtree(self.target, ignore_errors=True)

    def throw_away(self) -> None:
        """Forget the bootstrap.

        Raises:
            BackfillError: Another process is at it.
        """
        if not self.path.exists():
            return
        with alone(self.path):
            # first what says that there is something: a kill in between leaves no half of a bootstrap
            self._handed_over.unlink(missing_ok=True)
            self._begun.unlink(missing_ok=True)
            shutil.rmtree(self.path)


def hand_over_folder(pipeline: Pipeline, settings: Settings) -> HandOverFolder:
    """The pipeline's folder for a state from history, beside its checkpoints."""
    return HandOverFolder(pipeline_checkpoints(pipeline, settings) / "bootstrap")


def _begun(document: dict[str, Any]) -> Begun:
    begins = document["begins"]
    return Begun(
        document["arguments"],
        None if begins is None else _by_number(begins),
        _by_number(document["live"]),
        document["live_text"],
        document["last_run"],
    )


def _by_number(offsets: dict[str, int]) -> dict[int, int]:
    return {int(partition): offset for partition, offset in offsets.items()}
