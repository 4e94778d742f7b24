"""Small JSON files that say how far something is: all there, or not there."""

import json
import os
from pathlib import Path
from typing import Any


def write_document(path: Path, document: Any) -> None:
    """Write a document so that a kill at any moment leaves the old one or the new one."""
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def read_document(path: Path) -> Any:
    """The document; None where there is none."""
    return json.loads(path.read_text("utf-8")) if path.exists() else None
