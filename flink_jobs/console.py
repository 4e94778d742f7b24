"""What commands say and how they end: two consoles, one line for a failure, a clean end on Ctrl-C.

`out` is for results, which a script may read; `err` for progress and failures.
"""

import functools
import inspect
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

OWN_PACKAGES = frozenset({"flink_jobs", "udfs", "models"})
INTERRUPTED, TERMINATED = 130, 143  # 128 + number of the signal, as shells have it
_JARS_OF = {"job": ("connector", "compression", "login"), "broker": ("broker", "compression", "login")}
_JAR_MEGABYTES = {"connector": 11, "compression": 7, "login": 3, "broker": 35}

out = Console(highlight=False)
err = Console(highlight=False, stderr=True)

Debug = Annotated[bool, typer.Option("--debug", help="Show the stack trace of a failure.")]


class CommandError(RuntimeError):
    """A command cannot do what it was asked; the message is one line that says what to do instead."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends like Ctrl-C, so that nothing is left behind."""


def say(text: str, *, style: str | None = None) -> None:
    """One line for people on stderr; never wrapped, because somebody may search for it in a log."""
    err.print(text, style=style, soft_wrap=True, markup=False)


def show(text: str, *, style: str | None = None) -> None:
    """One line of a result on stdout."""
    out.print(text, style=style, soft_wrap=True, markup=False)


def next_steps(*steps: tuple[str, str]) -> None:
    """What to do now: commands, and what each is for."""
    width = max(len(command) for command, _ in steps)
    say("next:", style="bold")
    for command, purpose in steps:
        say(f"  {command:<{width}}   {purpose}")


def show_json(document: object) -> None:
    """A result as one line of JSON on stdout."""
    out.file.write(json.dumps(document, ensure_ascii=False, default=str) + "\n")
    out.file.flush()


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command that fails with one line and has `--debug`.

    Exit status: 1 for a failure, 130 after Ctrl-C, 143 after SIGTERM, 2 (by typer) for wrong options.
    """

    @functools.wraps(function)
    def guarded(*arguments: Any, debug: bool = False, **options: Any) -> None:
        previous = signal.getsignal(signal.SIGTERM)
        _set_handler(signal.SIGTERM, _raise_terminated)
        try:
            function(*arguments, **options)
        except KeyboardInterrupt as interrupt:
            say("stopped")
            raise typer.Exit(TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED) from None
        except BrokenPipeError:  # `millrace watch | head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(0) from None
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            if debug:
                raise
            say(f"error: {one_line(error)}", style="red")
            raise typer.Exit(1) from None
        finally:
            _set_handler(signal.SIGTERM, previous)

    signature = inspect.signature(function)
    debug_option = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    guarded.__signature__ = signature.replace(  # type: ignore[attr-defined]  # typer reads it
        parameters=[*signature.parameters.values(), debug_option]
    )
    guarded.__annotations__ = {**function.__annotations__, "debug": Debug}
    return guarded


def one_line(error: BaseException) -> str:
    """A failure for the user: our own errors say what to do, others at least what they are."""
    text = " ".join(str(error).split())
    if type(error).__module__.partition(".")[0] in OWN_PACKAGES:
        return text
    return f"{type(error).__name__}: {text[:500]} (--debug shows where)"


class StopSignal:
    """Ctrl-C or SIGTERM as a question instead of an exception, while a job must be ended in order.

    The second one raises, for a user who does not want to wait.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.getsignal(number)
            _set_handler(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            _set_handler(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def raise_if_requested(self) -> None:
        """Raise KeyboardInterrupt at a place where that leaves nothing half done."""
        if self.requested:
            raise KeyboardInterrupt


@contextmanager
def quiet_output(log_file: Path) -> Iterator[None]:
    """While this lasts, what Java and its Python workers print goes to a file; our consoles still reach the user."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # it logs stack traces when Java has gone before us
    consoles = [(console, number) for console, number in ((out, 1), (err, 2)) if _writes_to(console, number)]
    saved = {number: os.dup(number) for number in (1, 2)}
    previous = [console.file for console, _ in consoles]
    for console, number in consoles:
        console.file = os.fdopen(saved[number], "w", encoding="utf-8", errors="replace", closefd=False)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        with log_file.open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        yield
    finally:
        for (console, _), file in zip(consoles, previous, strict=True):
            console.file.flush()
            console.file = file
        for number, kept in saved.items():
            os.dup2(kept, number)
            os.close(kept)


def bar(unit: str) -> Progress:
    """A progress bar on stderr that goes away when it is done."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TextColumn(unit), TimeElapsedColumn(), console=err, transient=True)


def fetch_jars(*whose: Literal["job", "broker"]) -> None:
    """Make the jars of jobs, the local broker or both (the default) available, with progress; at first a download."""
    from flink_jobs.local import jars

    wanted: Any = {jar_set for each in whose or _JARS_OF for jar_set in _JARS_OF[each]}
    locked = [jar for jar in jars.read_lock() if jar.jar_set in wanted]
    folder = jars.cache_folder()
    missing = [jar for jar in locked if not (folder / jar.filename).exists()]
    if missing:
        size = sum(_JAR_MEGABYTES[jar_set] for jar_set in wanted)
        say(f"fetching {len(missing)} jars into {folder} (only the first time, about {size} MB)")
    with bar("jars") as progress:
        task = progress.add_task("fetching jars" if missing else "checking jars", total=len(locked))

        def advance(ready: int, total: int, fetched_bytes: int) -> None:
            fetched = f", {fetched_bytes / 1e6:.0f} MB" if fetched_bytes else ""
            verb = "fetching jars" if missing else "checking jars"
            progress.update(task, completed=ready, total=total, description=f"{verb}{fetched}")

        jars.ensure_jars(advance, jar_sets=wanted)
    if missing:
        say("jars: all there and checked against jars.lock")


def fetch_registry() -> None:
    """Make the local schema registry available, with progress; the first time this is a download."""
    from flink_jobs.local import registry_files

    if registry_files.is_fetched():
        return
    say(
        f"fetching Apicurio Registry {registry_files.registry_version()} and a Java 21 for it into the cache "
        f"(only the first time, about {registry_files.REGISTRY_MEGABYTES} MB)"
    )
    with bar("") as progress:
        task = progress.add_task("fetching the registry", total=None)

        def advance(_ready: int, _total: int, fetched_bytes: int) -> None:
            progress.update(task, description=f"fetching the registry, {fetched_bytes / 1e6:.0f} MB")

        registry_files.ensure_registry(advance)
    say("registry: there, and checked against jars.lock and java21.lock")


def _writes_to(console: Console, number: int) -> bool:
    try:
        return console.file.fileno() == number
    except (OSError, ValueError):  # a test's buffer
        return False


def _set_handler(number: signal.Signals, handler: Any) -> None:
    try:
        signal.signal(number, handler)
    except ValueError:  # not the main thread, as when a command is called from a program
        return


def _raise_terminated(_number: int, _frame: FrameType | None) -> None:
    raise Terminated
