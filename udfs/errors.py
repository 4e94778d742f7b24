"""The errors a user can cause in udfs, each with one clear line."""


class DefinitionError(ValueError):
    """A pipeline, feature or event class that cannot mean anything; says what to write instead."""


class StateVersionError(RuntimeError):
    """State written in a format this version does not read."""


class StateCorruptError(RuntimeError):
    """State whose bytes do not add up; names the part that does not."""
