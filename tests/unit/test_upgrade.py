"""An upgrade step by step: what happens when a step fails, and what the user is told then."""

import os
from types import SimpleNamespace

import pytest
from shard_driver import pipeline_of

from flink_jobs import first_checkpoint, upgrade
from flink_jobs.definitions import JobDefinition
from flink_jobs.first_checkpoint import wait_until_it_works
from flink_jobs.job_run import JobFailedError
from flink_jobs.rest_client import ClusterRest, RestError
from flink_jobs.resubmit import Resubmission, ResubmitError
from flink_jobs.settings import Settings
from flink_jobs.upgrade import UpgradeFailedError, definition_of_job, upgrade_job
from udfs.pipeline import Count

PIPELINE = pipeline_of(Count(window="1h"))


class Job:
    """A job whose states follow one another, the last one for ever."""

    cancelled = "CANCELED"

    def __init__(self, settings, name, states, *, restarts=0, why=None):
        self.pipeline, self.settings, self.engine = PIPELINE, settings, "stream"
        self.rest = SimpleNamespace(job_id=name, restarts=lambda: restarts)
        self._states, self._why, self.did = list(states), why, []

    def status(self):
        return self._states.pop(0) if len(self._states) > 1 else self._states[0]

    def checkpoints(self):
        if self._states[0] == "UNREACHABLE":
            raise RestError("nobody answers")
        return SimpleNamespace(completed=int(self._states[0] == "WORKS"))

    def failure(self):
        return self._why

    def stop(self):
        self.did.append("stop")
        return "file:/savepoint-1"

    def cancel(self):
        self.did.append("cancel")
        self._states = [self.cancelled]


@pytest.fixture
def world(monkeypatch, tmp_path):
    """Old job, new job, and what the old code was asked to submit."""
    shipment = tmp_path / "shipped"
    shipment.mkdir()
    settings = Settings(home=tmp_path, parallelism=4)
    world = SimpleNamespace(settings=settings, submitted=[], order=None, back=["WORKS"], failing=None, found=None)
    world.old = Job(settings, "old", ["RUNNING"])
    world.before = JobDefinition.of(PIPELINE, Settings(parallelism=2), reference="/elsewhere/p.py", shipment=shipment)
    world.new = Job(settings, "new", ["WORKS"])

    def submit(*_, restore_from, **__):
        if world.failing is not None:
            raise world.failing
        world.submitted.append(restore_from)
        return world.new

    def resubmit(order, log):
        world.order = order
        return "back"

    monkeypatch.setattr(upgrade, "submit_job", submit)
    monkeypatch.setattr(upgrade, "resubmit", resubmit)
    monkeypatch.setattr(upgrade, "find_job", lambda *_: world.found)
    monkeypatch.setattr(first_checkpoint, "POLL_S", 0.001)
    monkeypatch.setattr(upgrade, "prepare_process", lambda _: None)
    monkeypatch.setattr(upgrade, "cluster_rest", lambda _: ClusterRest("http://there"))
    monkeypatch.setattr(upgrade, "JobRun", lambda *_: Job(settings, "back", world.back, why="not this time"))
    return world


def run(world):
    return upgrade_job(
        world.old, world.before, PIPELINE, "p.py", world.settings, shipment=world.settings.home, python_archive=None,
        limit_s=0.2, step=lambda _: None,
    )  # fmt: skip


def test_a_new_job_with_a_checkpoint_has_taken_over(world):
    world.new = Job(world.settings, "new", ["CREATED", "UNREACHABLE", "RUNNING", "WORKS"])
    upgraded = run(world)
    assert (upgraded.job_id, upgraded.savepoint) == ("new", "file:/savepoint-1")
    assert (world.old.did, world.submitted, world.order) == (["stop"], ["file:/savepoint-1"], None)


@pytest.mark.parametrize(
    ("states", "restarts", "why"),
    [(["FAILED"], 0, "no such column"), (["RESTARTING"], 3, "no such column"), (["RUNNING"], 0, None)],
)
def test_a_new_job_that_does_not_work_is_cancelled_and_the_old_one_comes_back_as_it_was(world, states, restarts, why):
    world.new = Job(world.settings, "new", states, restarts=restarts, why=why)
    with pytest.raises(UpgradeFailedError) as failed:
        run(world)
    assert (why or "no checkpoint within 0.2 s") in str(failed.value)
    assert "the old one is back as back from file:/savepoint-1, nothing is lost" in str(failed.value)
    assert world.new.did == ["cancel"]
    assert world.order.restore_from == "file:/savepoint-1"
    assert (world.order.settings["parallelism"], world.settings.parallelism) == (2, 4)
    assert world.order.reference == str(world.settings.home / "shipped" / "p.py")


@pytest.mark.parametrize("error", [RestError("no slots"), KeyboardInterrupt()])
def test_the_old_job_comes_back_where_the_new_one_could_not_even_be_submitted(world, error):
    world.failing = error
    with pytest.raises(UpgradeFailedError, match="the old one is back"):
        run(world)


def test_answers_that_the_new_job_committed_after_all_are_not_given_again(world):
    """Contract: its newest checkpoint, not the savepoint, is where the old one goes on."""
    world.new = Job(world.settings, "new", ["FAILED"], why="too late")
    for number in (1, 2):
        place = world.settings.checkpoints / PIPELINE.name / "new" / f"chk-{number}"
        place.mkdir(parents=True)
        (place / "_metadata").touch()
        os.utime(place / "_metadata", (number, number))
    with pytest.raises(UpgradeFailedError):
        run(world)
    assert world.order.restore_from == place.as_uri()


def test_a_job_that_is_there_although_submitting_it_was_interrupted_is_cancelled(world):
    world.failing, world.found = KeyboardInterrupt(), world.new
    with pytest.raises(UpgradeFailedError, match="the old one is back"):
        run(world)
    assert world.new.did == ["cancel"]


def test_the_old_job_does_not_come_back_beside_a_new_one_that_cannot_be_cancelled(world):
    world.new = Job(world.settings, "new", ["RUNNING"])
    world.new.cancelled = "CANCELLING"
    with pytest.raises(UpgradeFailedError, match="job new cannot be cancelled, it is CANCELLING"):
        run(world)
    assert world.order is None


def test_where_the_state_is_is_said_when_the_old_job_cannot_be_brought_back_either(world):
    world.new, world.back = Job(world.settings, "new", ["FAILED"], why="bad"), ["FAILED"]
    with pytest.raises(UpgradeFailedError, match=r"not this time\. Its state is in file:/savepoint-1"):
        run(world)


def test_a_job_without_a_savepoint_is_left_as_it_is(world):
    def stop():
        raise RestError("checkpoint expired")

    world.old.stop = stop
    with pytest.raises(UpgradeFailedError, match=r"checkpoint expired\): the job was left as it is"):
        run(world)
    assert world.submitted == []


def test_a_job_of_which_no_definition_is_known_is_not_upgraded(world):
    with pytest.raises(Exception, match="no definition of job old"):
        definition_of_job(world.old)


def test_a_job_whose_shipped_code_is_gone_cannot_be_brought_back(world):
    (world.settings.home / "shipped").rmdir()
    with pytest.raises(ResubmitError, match="is gone"):
        Resubmission.of(world.before, world.settings, "file:/savepoint-1")


def test_waiting_for_a_job_ends_when_it_ends(world):
    with pytest.raises(JobFailedError, match="it is CANCELED, and names no failure"):
        wait_until_it_works(Job(world.settings, "gone", ["CANCELED"]), 10)
