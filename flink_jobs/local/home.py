"""Where the local broker and registry of a home folder are, and which Kafka and registry a command talks to."""

from pathlib import Path

from flink_jobs import kafka_admin
from flink_jobs.local.broker import broker_status
from flink_jobs.local.cluster import LocalCluster
from flink_jobs.local.registry import LocalRegistry
from flink_jobs.settings import Settings

BROKER_WAIT_S = 5.0


def broker_folder(settings: Settings) -> Path:
    """Folder of the home's broker: `<home>/broker`."""
    return settings.home / "broker"


def local_cluster(settings: Settings) -> LocalCluster | None:
    """The home's Flink cluster, in `<home>/cluster`, alive or not; None when there never was one."""
    return LocalCluster.find(cluster_folder(settings))


def cluster_folder(settings: Settings) -> Path:
    """Folder of the home's Flink cluster."""
    return settings.home / "cluster"


def registry_folder(settings: Settings) -> Path:
    """Folder of the home's schema registry: `<home>/registry`."""
    return settings.home / "registry"


def resolve_registry(settings: Settings) -> str | None:
    """URL of the schema registry: the setting; where nobody set it, that of the home's registry if it runs."""
    if settings.schema_registry is not None:
        return settings.schema_registry
    local = LocalRegistry.find(registry_folder(settings))
    return local.url if local is not None and local.alive else None


def resolve_bootstrap(settings: Settings) -> str:
    """The address commands use: the setting; where nobody set it, that of the home's broker if it runs.

    The local broker takes another port when 9092 belongs to somebody else, and the settings need not know.
    """
    if "bootstrap" in settings.model_fields_set:
        return settings.bootstrap
    status = broker_status(broker_folder(settings))
    return status.bootstrap if status and status.alive else settings.bootstrap


def resolved(settings: Settings) -> Settings:
    """The settings with the addresses of `resolve_bootstrap` and `resolve_registry`."""
    found = {"bootstrap": resolve_bootstrap(settings), "schema_registry": resolve_registry(settings)}
    return settings.model_copy(update=found)


def connected(settings: Settings) -> Settings:
    """The same settings, once a broker has answered.

    Raises:
        KafkaUnreachableError: None does: said at once, where a request would wait for its whole time limit.
    """
    kafka_admin.wait_for_broker(settings.bootstrap, settings.kafka_properties, timeout_s=BROKER_WAIT_S)
    return settings
