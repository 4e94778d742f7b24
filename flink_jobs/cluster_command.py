"""`millrace cluster up` and `down`."""

from flink_jobs.console import bar, err, fetch_jars, next_steps, show, show_json
from flink_jobs.kafka_security import java_options
from flink_jobs.local.cluster import LocalCluster
from flink_jobs.local.home import cluster_folder, local_cluster
from flink_jobs.settings import Settings


def run_cluster_up_command(
    settings: Settings, *, taskmanagers: int, slots: int, port: int | None, as_json: bool
) -> None:
    """Start it, and say where it is."""
    fetch_jars("job")
    before = local_cluster(settings)
    ran = before is not None and before.alive
    with err.status("starting Flink") if not as_json and err.is_terminal else bar(""):
        cluster = LocalCluster.start(
            cluster_folder(settings), taskmanagers=taskmanagers, slots=slots, rest_port=port,
            java_options=java_options(settings.kafka_properties),
        )  # fmt: skip
    if as_json:
        show_json({"rest": cluster.rest_address, "already_ran": ran, "folder": str(cluster.folder), "slots": slots})
        return
    show(
        f"Flink {'already runs' if ran else 'runs'}: {taskmanagers} TaskManagers with {slots} slots each, "
        f"web UI at {cluster.rest_address} (logs in {cluster.folder / 'log'})"
    )
    next_steps(
        ("millrace submit purchase", "run a pipeline there"),
        ("millrace status", "how the cluster and its jobs are"),
        ("millrace cluster down", "end it"),
    )


def run_cluster_down_command(settings: Settings) -> None:
    """End it."""
    cluster = local_cluster(settings)
    if cluster is None or not cluster.alive:
        show(f"no Flink cluster runs in {cluster_folder(settings)}")
        return
    cluster.stop()
    show(f"the Flink cluster at {cluster.rest_address} has ended; jobs that ran there go on at the next `cluster up`")
