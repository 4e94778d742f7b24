"""Several versions scored as one: which they are, and how their scores become one."""

from dataclasses import dataclass
from typing import Any

from models.json_document import SHA256, JsonObject

MEAN, VOTE, STACK, CASCADE = KINDS = "mean", "vote", "stack", "cascade"
MEMBER_OUTPUT = "member"
"""The output of a cascade's graph that says by place which member scored a row."""


@dataclass(frozen=True)
class Member:
    """A version that another one is made of.

    Attributes:
        name: Of the model.
        version: Its number.
        sha256: Of its `model.onnx`.
    """

    name: str
    version: int
    sha256: str

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class Combination:
    """How the scores of members become one.

    Attributes:
        kind: `mean`; `vote`, the share of members whose score is at or over a threshold; `stack`, a further model
            scores the members' scores; or `cascade`, the second member scores the rows whose first score is unsure.
        members: In order.
        weights: Of a mean, one a member, 1 in all.
        threshold: Of a vote.
        stacker_sha256: Of a stack: of the further model's file.
        unsure: Of a cascade: lowest and highest unsure score. A first score that is no number is unsure, too.
    """

    kind: str
    members: tuple[Member, ...]
    weights: tuple[float, ...] = ()
    threshold: float | None = None
    stacker_sha256: str | None = None
    unsure: tuple[float, float] | None = None

    def to_document(self) -> dict[str, Any]:
        """As the manifest has it."""
        own: dict[str, dict[str, Any]] = {
            MEAN: {"weights": list(self.weights)},
            VOTE: {"threshold": self.threshold},
            STACK: {"stacker_sha256": self.stacker_sha256},
            CASCADE: {"unsure": list(self.unsure or ())},
        }
        return {"kind": self.kind, "members": [vars(each) for each in self.members], **own[self.kind]}

    @property
    def text(self) -> str:
        """In words."""
        members = ", ".join(f"{each.label} ({each.sha256:.12})" for each in self.members)
        if self.kind == MEAN:
            how = f"weights {', '.join(f'{each:.4g}' for each in self.weights)}"
        elif self.kind == VOTE:
            how = f"the share at or over {self.threshold:g}"
        elif self.kind == STACK:
            how = f"their scores scored by a further model ({self.stacker_sha256:.12})"
        else:
            low, high = self.unsure or (0.0, 0.0)
            how = f"the second scores what the first gives {low:g} to {high:g}, or no number"
        return f"{self.kind} of {members}: {how}"

    @property
    def short_text(self) -> str:
        """Kind and versions alone."""
        return f"{self.kind} of {', '.join(str(each.version) for each in self.members)}"


def read_combination(document: JsonObject) -> Combination:
    """Read it strictly; errors name the key."""
    kind = document.text("kind")
    if kind not in KINDS:
        document.refuse("kind", f"write one of {', '.join(KINDS)}")
    own = {MEAN: "weights", VOTE: "threshold", STACK: "stacker_sha256", CASCADE: "unsure"}[kind]
    document.only("kind", "members", own)
    members = tuple(_member(each) for each in document.objects("members"))
    if len(members) < 2 or (kind == CASCADE and len(members) > 2):
        document.refuse("members", "a cascade has two members" if kind == CASCADE else "name two or more")
    if kind == STACK:
        return Combination(kind, members, stacker_sha256=document.text(own, SHA256))
    if kind == VOTE:
        return Combination(kind, members, threshold=document.number(own))
    numbers = document.numbers(own)
    if kind == MEAN:
        if len(numbers) != len(members):
            document.refuse(own, "give one weight for each member")
        return Combination(kind, members, weights=numbers)
    if len(numbers) != 2 or numbers[0] > numbers[1]:
        document.refuse(own, "give the lowest and the highest unsure score")
    return Combination(kind, members, unsure=(numbers[0], numbers[1]))


def _member(document: JsonObject) -> Member:
    document.only("name", "version", "sha256")
    return Member(document.text("name"), document.whole("version", least=1), document.text("sha256", SHA256))
