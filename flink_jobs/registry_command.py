"""`millrace registry up|down`: the home's local schema registry."""

from flink_jobs.console import bar, fetch_registry, next_steps, out, show, show_json
from flink_jobs.local.home import registry_folder
from flink_jobs.local.registry import DEFAULT_PORT, LocalRegistry
from flink_jobs.local.server_process import first_port
from flink_jobs.settings import Settings


def start_registry(settings: Settings, port: int | None, *, as_json: bool) -> tuple[LocalRegistry, bool]:
    """Start the home's registry, fetched first if need be.

    Returns:
        It, and whether it ran already.
    """
    fetch_registry()
    folder = registry_folder(settings)
    before = LocalRegistry.find(folder)
    ran = before is not None and before.alive
    port = first_port(port, before, DEFAULT_PORT)
    with out.status("starting the schema registry") if not as_json else bar(""):
        return LocalRegistry.start(folder, port), ran


def stop_registry(settings: Settings) -> LocalRegistry | None:
    """Stop the home's registry; None if none ran."""
    registry = LocalRegistry.find(registry_folder(settings))
    if registry is None or not registry.alive:
        return None
    registry.stop()
    return registry


def registry_line(registry: LocalRegistry, ran: bool) -> str:
    """Where it is, for people."""
    verb = "already runs" if ran else "runs"
    return f"the schema registry {verb} at {registry.url} (data and log in {registry.folder})"


def registry_document(registry: LocalRegistry, ran: bool) -> dict[str, object]:
    """Where it is, for scripts."""
    return {"url": registry.url, "pid": registry.state.pid, "folder": str(registry.folder), "already_ran": ran}


def run_registry_up_command(settings: Settings, port: int | None, *, as_json: bool) -> None:
    """Start it and say where it is."""
    registry, ran = start_registry(settings, port, as_json=as_json)
    if as_json:
        show_json(registry_document(registry, ran))
        return
    show(registry_line(registry, ran))
    next_steps(
        ("millrace schema register purchase", "register the schema of a pipeline's predictions"),
        ("millrace registry down", "stop it; its schemas stay (`millrace down` stops it too)"),
    )


def run_registry_down_command(settings: Settings) -> None:
    """Stop it and say so."""
    registry = stop_registry(settings)
    if registry is None:
        show(f"no schema registry runs in {registry_folder(settings)}")
        return
    show(f"the schema registry at {registry.url} has ended; its schemas stay in {registry.folder}")
    next_steps(
        ("millrace registry up", "start it again with the same schemas"),
        (f"rm -r {registry.folder}", "forget the schemas"),
    )
