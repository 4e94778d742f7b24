"""How a running job is stopped: by the mini-cluster that it runs in, or through a cluster's REST interface."""

from typing import TYPE_CHECKING, Any, Protocol

from flink_jobs.rest_client import ClusterRest, RestClient, root_cause_line

if TYPE_CHECKING:
    from pyflink.common import JobClient


class JobControl(Protocol):
    """What `JobRun` needs.

    Attributes:
        rest: The job's part of the REST interface.
        ends_with_job: Whether Flink, and its REST interface with it, goes down with the job.
    """

    rest: RestClient
    ends_with_job: bool

    def stop(self, folder: str, *, drain: bool) -> str:
        """Stop with a savepoint below the folder (an URI); its path."""

    def cancel(self) -> None:
        """End the job at once."""

    def failure(self) -> str | None:
        """Why the job ended, in one line, where the REST interface does not answer."""


class MiniClusterControl:
    """A job in a mini-cluster of this process; see `JobControl`."""

    ends_with_job = True

    def __init__(self, client: "JobClient", rest_address: str) -> None:
        self._client = client
        self.rest = RestClient(ClusterRest(rest_address), str(client.get_job_id()))

    def stop(self, folder: str, *, drain: bool) -> str:
        """See `JobControl`."""
        from pyflink.java_gateway import get_gateway

        # PyFlink's own stop_with_savepoint lacks the format, which Flink 2 asks for
        jvm: Any = get_gateway().jvm
        canonical = jvm.org.apache.flink.core.execution.SavepointFormatType.CANONICAL
        return str(self._client._j_job_client.stopWithSavepoint(drain, folder, canonical).get())

    def cancel(self) -> None:
        """See `JobControl`."""
        self._client.cancel().result()

    def failure(self) -> str | None:
        """See `JobControl`."""
        try:
            self._client.get_job_execution_result().result()
        except Exception as error:
            return root_cause_line(str(error))
        return None


class ClusterControl:
    """A job on a cluster; see `JobControl`."""

    ends_with_job = False

    def __init__(self, cluster: ClusterRest, job_id: str) -> None:
        self.rest = RestClient(cluster, job_id)

    def stop(self, folder: str, *, drain: bool) -> str:
        """See `JobControl`."""
        return self.rest.stop(folder, drain=drain)

    def cancel(self) -> None:
        """See `JobControl`."""
        self.rest.cancel()

    def failure(self) -> str | None:
        """See `JobControl`; nobody knows while no JobManager answers."""
        return None
