"""Features that belong together: the numbers of a vector, or of the last events of an entity."""

from collections.abc import Iterable


class Block(tuple[str, ...]):
    """Features that are the numbers of one vector, or of the last events of an entity one after the other.

    Attributes:
        events: Of how many events they are; 1 of a vector.
    """

    events: int

    @classmethod
    def of(cls, names: Iterable[str], events: int = 1) -> "Block":
        """The features with these names, in order."""
        block = cls(names)
        block.events = events
        return block
