"""Commits that Kafka refused, and with them lost the answers of a checkpoint; Flink only logs and counts them.

Its counter alone says too little. It begins anew with each restart, and after one it counts commits that had happened
before: a job that goes on from a checkpoint commits that checkpoint's transactions once more, and Kafka refuses what
it has closed already (transaction.version 2). So each refused transaction is looked up in the TaskManagers' logs, and
Kafka is asked what became of it.
"""

import re
from collections.abc import Collection
from urllib.parse import quote

from flink_jobs.rest_client import ClusterRest, RestError
from flink_jobs.settings import Settings
from flink_jobs.transactions import states_of

COMMITTED = "CompleteCommit"
COUNTER = "failedCommittables"
_REFUSED = re.compile(r"Unable to commit transaction .*?transactionalId='([^']+)'")


def lost_commits(settings: Settings, refused: Collection[str]) -> list[str]:
    """Those of the transactions that Kafka refused to commit that are not committed.

    Args:
        settings: Where Kafka is.
        refused: From `refused_commits`. Asking for any needs Flink's JVM in this process.

    Raises:
        KafkaAdminError: Kafka does not answer.
    """
    if not refused:
        return []
    states = states_of(settings, refused)
    return sorted(name for name in refused if states.get(name) != COMMITTED)


def refused_commits(rest: ClusterRest, prefixes: Collection[str]) -> set[str]:
    """Ids of a pipeline's transactions of which a TaskManager's log says that Kafka refused to commit them.

    Args:
        rest: The cluster, whose logs are read.
        prefixes: Of the pipeline's transactional ids, from `sink_ids`.
    """
    found: set[str] = set()
    for path in rest.taskmanagers().values():
        place = f"{path}/logs"
        try:
            names = [str(log["name"]) for log in rest.get(place)["logs"]]
            texts = [rest.text(f"{place}/{quote(name, safe='')}") for name in names if ".log" in name]
        except RestError:
            continue  # a TaskManager that has just gone
        for text in texts:
            found.update(_REFUSED.findall(text))
    return {name for name in found if name.rpartition("-")[0].rpartition("-")[0] in prefixes}
