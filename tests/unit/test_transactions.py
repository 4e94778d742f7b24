"""Whose an open transaction is, when it may be aborted, and what is said of it; with answers that need no Kafka."""

import json
import struct
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from flink_jobs import state_reading, transaction_owners, transactions_command
from flink_jobs.cli import app
from flink_jobs.console import CommandError
from flink_jobs.local.processes import free_port
from flink_jobs.pipelines import load_pipeline
from flink_jobs.running_mark import marked_as_running, running_process
from flink_jobs.settings import Settings
from flink_jobs.transaction_owners import owned, run_of
from flink_jobs.transactions import BlockedPartition, OpenTransaction, _hanging, _Producer

OUT = "predictions"


def opened(name="millrace-purchase-0-7", state="Ongoing", producer=5, started=1_000, first=3, topic=OUT):
    return OpenTransaction(name, producer, 0, state, started, 600_000, {(topic, 0): first})


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("millrace-purchase-0-7", "purchase"), ("millrace-fraud-2-0-15", "fraud-2"),
        ("millrace-fraud.sql-1-2", "fraud.sql"),
        ("somebody-0-7", None), ("millrace-purchase", None), (None, None),
    ],
)  # fmt: skip
def test_a_transactional_id_tells_its_run_and_no_other(name, run):
    assert run_of(opened(name)) == run


@pytest.fixture
def knowing(monkeypatch):
    """Says which jobs the cluster has, and what the newest checkpoint holds."""
    known = SimpleNamespace(jobs={}, held={})
    monkeypatch.setattr(transaction_owners, "_jobs_of", lambda _settings: known.jobs)
    monkeypatch.setattr(transaction_owners, "_newest_checkpoint", lambda folder: known.held.get(folder.name))
    return known


def owner(settings, transaction, moving=()):
    (found,) = owned(settings, [transaction], moving)
    return found.owner


def test_a_transaction_is_orphaned_only_where_nothing_speaks_for_it(knowing, tmp_path):
    settings = Settings(home=tmp_path)
    assert owner(settings, opened()) == "orphaned"
    assert owner(settings, opened("another-0-1")) == "foreign"
    assert owner(settings, opened("another-replay")) == "foreign"
    assert owner(settings, opened("millrace-purchase-replay")) == "replay"
    assert owner(settings, opened("millrace-purchase-replay-0-7")) == "orphaned", "of a pipeline purchase-replay"
    assert owner(settings, opened(state="PrepareCommit")) == "completing"
    assert owner(settings, opened(None, "Hanging")) == "orphaned"
    assert owner(settings, opened(), moving=["millrace-purchase"]) == "running"
    assert owner(settings, opened(), moving=["millrace-purchase.sql"]) == "orphaned"
    knowing.jobs["millrace-purchase"] = "job 1"
    assert owner(settings, opened()) == "running"
    assert owner(settings, opened("millrace-purchase.sql-0-7")) == "orphaned"


def test_a_transaction_that_the_newest_checkpoint_holds_is_left_to_the_next_start(knowing, tmp_path):
    """Contract: aborting it would lose answers that a checkpoint counts as given."""
    settings = Settings(home=tmp_path)
    name = b"millrace-purchase-0-7"
    committable = struct.pack(">hqH", 0, 5, len(name)) + name
    knowing.held["purchase"] = "/points/chk-7", b"before" + committable + b"after"
    assert owner(settings, opened()) == "pending"
    assert owner(settings, opened(producer=6)) == "orphaned", "the id was taken over by another producer"
    assert owner(settings, opened("millrace-purchase-0-8")) == "orphaned"
    assert owner(settings, opened("millrace-purchase.sql-0-7")) == "orphaned"


def test_a_process_that_runs_a_pipeline_is_known_until_it_ends(knowing, tmp_path):
    settings = Settings(home=tmp_path)
    folder = settings.checkpoints / "purchase"
    assert running_process(folder) is None
    with marked_as_running(folder):
        assert running_process(folder) > 0
        assert owner(settings, opened()) == "running"
        with pytest.raises(CommandError, match=r"purchase runs already, in process \d+"), marked_as_running(folder):
            raise AssertionError("two at once")
    assert running_process(folder) is None
    assert owner(settings, opened()) == "orphaned"


def test_only_what_stayed_open_while_the_coordinators_were_asked_is_hanging():
    """A transaction that began or ended meanwhile is no wonder."""
    place = (OUT, 0)
    stays, goes, comes, known = (_Producer(number, 0, 10 * number, 5) for number in (1, 2, 3, 4))
    goes_on = _Producer(5, 0, 50, 5), _Producer(5, 0, 90, 6)  # another transaction of the same producer
    before = {place: [stays, goes, known, goes_on[0]], (OUT, 1): [stays]}
    after = {place: [stays, comes, known, goes_on[1]], (OUT, 1): [stays]}
    (found,) = _hanging([opened(producer=4)], before, after)
    assert (found.producer_id, found.state, found.transactional_id) == (1, "Hanging", None)
    assert found.first_offsets == {place: 10, (OUT, 1): 10}


class Kafka:
    """Answers of Kafka, one list of transactions a look."""

    def __init__(self, monkeypatch, *looks, blocked=()):
        self.looks, self.blocked, self.aborted = list(looks), list(blocked), []
        monkeypatch.setattr(transactions_command, "connected", lambda settings: settings)
        monkeypatch.setattr(transactions_command, "fetch_jars", lambda *_: None)
        monkeypatch.setattr(transactions_command, "open_transactions", self._open)
        monkeypatch.setattr(transactions_command, "blocked_partitions", lambda *_: list(self.blocked))
        monkeypatch.setattr(transactions_command, "abort_transactions", self._abort)
        monkeypatch.setattr(transactions_command, "_LEAST_WAIT_S", 0.0)
        monkeypatch.setattr(state_reading, "prepare_process", lambda _logs: None)

    def _open(self, _settings, *, topics):
        assert isinstance(list(topics), list)
        return self.looks[0] if len(self.looks) == 1 else self.looks.pop(0)

    def _abort(self, _settings, transactions):
        self.aborted += transactions
        self.blocked.clear()


def command(tmp_path, *, pipeline="purchase", abort=False, yes=False, force=False, as_json=True):
    settings = Settings(home=tmp_path, checkpoint_interval_ms=50)
    transactions_command.run_transactions_command(
        load_pipeline(pipeline) if pipeline else None, pipeline, settings, abort=abort, yes=yes, force=force,
        as_json=as_json,
    )  # fmt: skip


def test_what_is_listed_says_whom_it_holds_up(knowing, monkeypatch, tmp_path, capsys):
    topic = load_pipeline("purchase").predictions
    blocked = BlockedPartition(topic, 0, 3, 9)
    Kafka(monkeypatch, [opened(topic=topic), opened("other-0-1", topic="elsewhere"), opened("x", topic=topic, first=5)],
          blocked=[blocked])  # fmt: skip
    command(tmp_path)
    told = json.loads(capsys.readouterr().out)
    assert [(each["transactional_id"], each["owner"], each["blocks"]) for each in told["transactions"]] == [
        ("millrace-purchase-0-7", "orphaned", [f"{topic}/0"]), ("x", "foreign", [f"{topic}/0"]),
    ]  # fmt: skip
    assert told["blocked"] == [{"topic": topic, "partition": 0, "last_stable": 3, "end": 9, "waiting": 6}]
    assert (told["counts"]["orphaned"], told["aborted"]) == (1, 0)
    command(tmp_path, as_json=False)
    text = capsys.readouterr().out
    assert f"{topic}/0: readers of committed records stop at 3, 6 before the end" in text
    assert "orphaned: no job runs that would end it" in text


def test_only_orphaned_ones_are_aborted_unless_forced(knowing, monkeypatch, tmp_path, capsys):
    topic = load_pipeline("purchase").predictions
    names = "millrace-purchase-0-7", "millrace-purchase.sql-0-1", "x"
    orphan, running, foreign = (opened(name, topic=topic) for name in names)
    knowing.jobs["millrace-purchase.sql"] = "job 2"
    kafka = Kafka(monkeypatch, [orphan, running, foreign], blocked=[BlockedPartition(topic, 0, 3, 9)])
    command(tmp_path, abort=True, yes=True)
    assert kafka.aborted == [orphan]
    told = json.loads(capsys.readouterr().out)
    assert [each["aborted"] for each in told["transactions"]] == [True, False, False]
    kafka.aborted.clear()
    command(tmp_path, abort=True, yes=True, force=True, as_json=False)
    assert kafka.aborted == [orphan, running], "another program's are never touched"
    kafka.looks = [[running]]
    kafka.aborted.clear()
    command(tmp_path, abort=True, yes=True, as_json=False)
    assert kafka.aborted == []
    assert "nothing to abort: 1 are a job's" in capsys.readouterr().err


def test_what_moves_while_it_is_looked_at_is_a_running_jobs(knowing, monkeypatch, tmp_path, capsys):
    topic = load_pipeline("purchase").predictions
    first, second = [opened(topic=topic)], [opened("millrace-purchase-0-8", topic=topic)]
    kafka = Kafka(monkeypatch, first, second)
    command(tmp_path, abort=True, yes=True)
    assert kafka.aborted == []
    assert [each["owner"] for each in json.loads(capsys.readouterr().out)["transactions"]] == ["running"]
    kafka.looks = [first, [*first, opened(None, "Hanging", 9, topic=topic)]]
    command(tmp_path)
    assert [each["owner"] for each in json.loads(capsys.readouterr().out)["transactions"]] == ["orphaned", "orphaned"]


def test_without_a_pipeline_those_of_all_are_listed(knowing, monkeypatch, tmp_path, capsys):
    Kafka(monkeypatch, [opened(), opened("millrace-fraud-0-1", topic="risks"), opened("x", topic="elsewhere")])
    command(tmp_path, pipeline=None)
    assert [each["run"] for each in json.loads(capsys.readouterr().out)["transactions"]] == ["purchase", "fraud"]


def test_a_script_that_cannot_answer_must_say_yes_and_a_dead_broker_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    monkeypatch.setenv("MILLRACE_BOOTSTRAP", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr("flink_jobs.local.home.BROKER_WAIT_S", 0.3)
    asked = CliRunner().invoke(app, ["transactions", "purchase", "--abort"])
    assert (asked.exit_code, "give --yes" in asked.stderr) == (1, True)
    dead = CliRunner().invoke(app, ["transactions"])
    assert dead.exit_code == 1
    assert dead.stderr.count("error: ") == 1
    assert "127.0.0.1" in dead.stderr
