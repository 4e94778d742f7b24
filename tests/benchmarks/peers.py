"""Other tools that score the same events, each in an environment of its own: they need other versions than we do.

Made with `venv` and pip when first used, from the versions pinned here, and kept in `build/peers/NAME-HASH`.
"""

import hashlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from flink_jobs.environment import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "build" / "peers"
INSTALL_S = 400.0
READY = ".ready"  # written last: an environment without it was interrupted
SCORING = ("msgspec==0.22.0", "numpy==2.4.6", "onnxruntime==1.32.0")  # what `visits` imports


@dataclass(frozen=True)
class Peer:
    """A tool and its pinned packages."""

    name: str
    packages: tuple[str, ...]
    beside: tuple[str, ...] = SCORING

    @property
    def pins(self) -> tuple[str, ...]:
        return *self.packages, *self.beside

    @property
    def folder(self) -> Path:
        """Another one for other pins, or for another Python."""
        wanted = "\n".join((sys.version, sys.base_prefix, *sorted(self.pins)))
        return FOLDER / f"{self.name}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"


QUIX = Peer("quix", ("quixstreams==3.28.1",))
FEAST = Peer("feast", ("feast[redis]==0.67.0",), beside=())
BEAM = Peer("beam", ("apache-beam==2.77.0", "onnx==1.22.0"))


class PeerUnavailableError(RuntimeError):
    """A peer cannot be installed here; one line says why."""


def python_of(peer: Peer) -> Path:
    """The interpreter of its environment, which is made if it is not there.

    Raises:
        PeerUnavailableError: pip could not install it.
    """
    folder = peer.folder
    python = folder / "bin" / "python"
    if (folder / READY).exists():
        return python
    print(f"{peer.name}: installing {peer.packages[0]}, once …", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.pins])
    except PeerUnavailableError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    (folder / READY).write_text("\n".join(peer.pins) + "\n", "utf-8")
    return python


def reason(output: str) -> str:
    """The line of pip's output that says why it failed, without addresses."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    chosen = (errors or lines or ["no reason was given"])[-1]
    return re.sub(r"\S*://\S*|\bhost='[^']*'", "…", chosen)[:200]


def _run(command: list[str]) -> None:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise PeerUnavailableError(f"not installed within {INSTALL_S:g} s") from error
    if ran.returncode:
        raise PeerUnavailableError(reason(ran.stdout + ran.stderr))
