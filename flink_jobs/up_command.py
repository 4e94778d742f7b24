"""`millrace up` and `millrace down`: the home's local broker, and its schema registry if it is wanted."""

from flink_jobs.console import bar, fetch_jars, next_steps, out, show, show_json
from flink_jobs.local.broker import Broker
from flink_jobs.local.home import broker_folder
from flink_jobs.local.server_process import first_port
from flink_jobs.registry_command import registry_document, registry_line, start_registry, stop_registry
from flink_jobs.settings import Settings

DEFAULT_PORT = 9092


def run_up_command(settings: Settings, port: int | None, *, with_registry: bool, as_json: bool) -> None:
    """Start what is asked for and say where it is."""
    fetch_jars("broker")
    folder = broker_folder(settings)
    before = Broker.find(folder)
    ran = before is not None and before.alive
    port = first_port(port, before, DEFAULT_PORT)
    with out.status("starting Kafka") if not as_json else bar(""):
        broker = Broker.start(folder, port)
    if not as_json:
        show(f"Kafka {'already runs' if ran else 'runs'} at {broker.bootstrap} (data and log in {folder})")
    registry = start_registry(settings, None, as_json=as_json) if with_registry else None
    if as_json:
        document = {"bootstrap": broker.bootstrap, "pid": broker.state.pid, "folder": str(folder), "already_ran": ran}
        show_json(document if registry is None else document | {"registry": registry_document(*registry)})
        return
    steps = [("millrace topics create purchase", "make the topics of a pipeline")]
    if registry is not None:
        show(registry_line(*registry))
        steps.append(("millrace schema register purchase", "register the schema of a pipeline's predictions"))
    next_steps(*steps, ("millrace down", "stop what runs; its data stays"))


def run_down_command(settings: Settings) -> None:
    """Stop the broker and the registry, whichever runs."""
    registry = stop_registry(settings)
    if registry is not None:
        show(f"the schema registry at {registry.url} has ended; its schemas stay in {registry.folder}")
    folder = broker_folder(settings)
    broker = Broker.find(folder)
    if broker is None or not broker.alive:
        show(f"no broker runs in {folder}")
        return
    broker.stop()
    show(f"the broker at {broker.bootstrap} has ended; its data stays in {folder}")
    next_steps(("millrace up", "start it again with the same data"), (f"rm -r {folder}", "forget the data"))
