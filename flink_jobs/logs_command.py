"""`millrace logs`: what a cluster's processes logged, through its REST interface."""

from flink_jobs.console import say, show
from flink_jobs.rest_client import RestError
from flink_jobs.settings import Settings
from flink_jobs.submission import cluster_rest


def run_logs_command(settings: Settings, *, lines: int, match: str | None) -> None:
    """Print the ends of all logs."""
    rest = cluster_rest(settings)
    places = {"JobManager": "/jobmanager/log"}
    places |= {f"TaskManager {name}": f"{path}/log" for name, path in rest.taskmanagers().items()}
    for name, path in places.items():
        try:
            text = rest.text(path)
        except RestError as error:
            say(f"{name}: {error}", style="yellow")
            continue
        wanted = [line for line in text.splitlines() if match is None or match in line][-lines:]
        say(f"{name}: {len(wanted)} lines", style="bold")
        for line in wanted:
            show(line)
