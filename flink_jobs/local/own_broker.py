"""A broker for one command, in a folder of its own; both are gone afterwards, but for logs of what failed."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flink_jobs.local.broker import Broker
from flink_jobs.local.home import broker_folder
from flink_jobs.settings import Settings


class OwnBroker:
    """A broker and its folder.

    Attributes:
        broker: It.
        bootstrap: Where it is.
        folder: For all that the command makes; gone afterwards.
        keep_logs: Whether to leave the logs of jobs there: set when something failed.
    """

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker, self.bootstrap, self.folder, self.keep_logs = broker, broker.bootstrap, folder, False


@contextlib.contextmanager
def own_broker(settings: Settings, prefix: str) -> Iterator[OwnBroker]:
    """Start one, and stop it at the end.

    Args:
        settings: Their home is where the folder is made.
        prefix: Of the folder's name.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix=prefix, dir=settings.home)).absolute()
    folder = broker_folder(settings.model_copy(update={"home": home}))
    own = None
    try:
        own = OwnBroker(Broker.start(folder, die_with_parent=True), home)
        yield own
    finally:
        if own is not None:
            own.broker.stop()
        kept = list(home.glob("*/logs")) if own is not None and own.keep_logs else []
        if kept:
            for path in [folder, *(logs.parent / "checkpoints" for logs in kept)]:
                shutil.rmtree(path, ignore_errors=True)
        else:
            shutil.rmtree(home, ignore_errors=True)
