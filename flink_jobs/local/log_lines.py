"""What the logs of a Java process say went wrong, as one line."""

import re
from pathlib import Path

PORT_TAKEN = "Address already in use"
# From the most telling to the least: a taken port, the message of an exception, an error in the log.
TELLING_LINES = (
    re.compile(PORT_TAKEN),
    re.compile(r"^(Caused by: )?[\w.$]+(Exception|Error): "),
    re.compile("ERROR|Error"),
)


def telling_line(*logs: tuple[Path, int]) -> str:
    """The last line that tells of an error, and the file it is in.

    Args:
        logs: Files, the likeliest first, each with the byte at which this start's part begins.
    """
    for file, start in logs:
        if not file.exists():
            continue
        text = file.read_bytes()[start if start <= size(file) else 0 :].decode("utf-8", "replace")
        for telling in TELLING_LINES:
            lines = [line.strip() for line in text.splitlines() if telling.search(line)]
            if lines:
                return f"{lines[-1]} (more in {file})"
    return f"its logs say nothing (see {' and '.join(str(file) for file, _ in logs)})"


def size(file: Path) -> int:
    """Its size in bytes, 0 when it is not there."""
    return file.stat().st_size if file.exists() else 0
