"""What Flink's processes log: as Flink is shipped, without one line that comes ten times a second."""

from pathlib import Path

QUIET = """
# how far each partition of a pipeline's sources may be read is told the readers every 100 ms
logger.alignment.name = org.apache.flink.runtime.source.coordinator.SourceCoordinator
logger.alignment.level = WARN
"""
"""Lines at the end of a configuration of Log4j; docker/Dockerfile has them too."""


def write_log_configuration(shipped: Path, folder: Path) -> Path:
    """Put a configuration of Flink's, made quieter, into a folder; returns where it is."""
    target = folder / shipped.name
    target.write_text(shipped.read_text("utf-8") + QUIET, "utf-8")
    return target
