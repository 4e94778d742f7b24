"""The command line: what it refuses, in one line each, and what it says of itself."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flink_jobs.cli import app
from flink_jobs.console import CommandError
from flink_jobs.local.home import resolve_bootstrap
from flink_jobs.local.processes import free_port
from flink_jobs.settings import load_settings
from flink_jobs.start_position import choose_start, parse_start

COMMANDS = (
    ["up"], ["down"], ["demo"], ["topics", "create"], ["produce"],
    ["run"], ["sql"], ["watch"], ["describe"], ["backfill"], ["verify"], ["explain"], ["parity"],
    ["train"], ["tune"], ["state", "show"], ["state", "diff"], ["transactions"], ["doctor"], ["deploy", "kubernetes"],
    ["cluster", "up"], ["cluster", "down"], ["submit"], ["status"], ["logs"], ["stop"], ["cancel"], ["certify"],
    ["registry", "up"], ["registry", "down"], ["schema", "check"], ["schema", "register"], ["schema", "diff"],
    ["schema", "import"], ["models", "ls"], ["models", "show"], ["models", "retire"],
    ["models", "add"], ["models", "probe"], ["models", "check"], ["models", "diff"],
    ["models", "export-mlflow"],
)  # fmt: skip
BACKFILL = ("backfill", "purchase", "--to", "set.parquet")
PIPELINE = """
from udfs.pipeline import Count, Events, Model, Pipeline, Value
class Payment:
    payment_id: str
    card: str
    amount: float
    at: int
pipeline = Pipeline(
    name="fraud", events=Events(Payment, topic="payments", partitions=2, entity="card", time="at", id="payment_id"),
    features=[Value("amount"), Count(window="1h")], model=Model("fraud", version=1, root="nowhere"), prediction="risk",
)
"""


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_broker(monkeypatch: pytest.MonkeyPatch) -> str:
    bootstrap = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("MILLRACE_BOOTSTRAP", bootstrap)
    for name in ("flink_jobs.local.home.BROKER_WAIT_S", "flink_jobs.preflight.BROKER_WAIT_S"):
        monkeypatch.setattr(name, 0.5)
    return bootstrap


def millrace(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def refusal(result: Result) -> str:
    """The one line of a failure; there is nothing on stdout and no stack trace."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert result.stderr.splitlines()[-1] == lines[0]
    return lines[0]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_of_itself(command: list[str]) -> None:
    result = millrace(*command, "--help")
    assert result.exit_code == 0
    assert f"Example: millrace {' '.join(command)}" in result.stdout
    assert "--debug" in result.stdout


def test_without_a_command_all_commands_are_listed() -> None:
    text = millrace().output
    assert all(command[0] in text for command in COMMANDS)


@pytest.mark.parametrize("command", [["run"], ["watch"], ["describe"], ["train"], ["produce"], ["topics", "create"]])
def test_unknown_pipeline_is_refused_with_the_known_ones(command: list[str]) -> None:
    line = refusal(millrace(*command, "purchases"))
    assert "no pipeline 'purchases'" in line
    assert "purchase" in line


def test_broken_definition_is_refused_with_the_field(tmp_path: Path) -> None:
    (tmp_path / "fraud.py").write_text(PIPELINE.replace('Value("amount")', 'Value("amout")'))
    line = refusal(millrace("run", "fraud.py"))
    assert "fraud.py" in line
    assert "amout" in line


def test_file_that_is_no_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fraud.py").write_text("pipeline = (")
    assert "SyntaxError" in refusal(millrace("describe", "fraud.py"))


def test_wrong_setting_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_BATCH_MS", "soon")
    assert "setting batch_ms" in refusal(millrace("run", "purchase"))


def test_wrong_option_that_is_a_setting_is_refused_with_its_name() -> None:
    assert "setting parallelism" in refusal(millrace("run", "purchase", "--parallelism", "0"))


@pytest.mark.parametrize("command", [["topics", "create"], ["produce"], ["run"], ["watch"]])
def test_no_broker_is_one_line_with_its_address(command: list[str], no_broker: str) -> None:
    line = refusal(millrace(*command, "purchase"))
    assert no_broker in line
    assert "millrace up" in line


def test_missing_events_file_is_refused() -> None:
    assert "nothing-here.csv" in refusal(millrace("produce", "purchase", "--events", "nothing-here.csv"))


def test_generator_is_refused_for_a_pipeline_with_other_events(tmp_path: Path) -> None:
    (tmp_path / "fraud.py").write_text(PIPELINE)
    assert "--events FILE" in refusal(millrace("produce", "fraud.py"))


def test_speedup_without_a_file_is_refused() -> None:
    assert "--events FILE" in refusal(millrace("produce", "purchase", "--speedup", "10"))


def test_missing_model_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "fraud.py").write_text(PIPELINE)
    assert "model fraud version 1 does not exist" in refusal(millrace("run", "fraud.py"))


def test_training_without_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fraud.py").write_text(PIPELINE)
    assert "labelled events" in refusal(millrace("train", "fraud.py"))


def test_backfill_of_an_unknown_pipeline_is_refused() -> None:
    assert "no pipeline 'purchases'" in refusal(millrace("backfill", "purchases", "--from", "x.csv", "--to", "y"))


def test_backfill_without_a_broker_is_one_line_with_its_address(no_broker: str) -> None:
    assert no_broker in refusal(millrace(*BACKFILL, "--from", "kafka"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--from", "none.csv"], "none.csv is no file"),
        (["--from", "events.csv", "--start", "earliest"], "--start is for --from kafka"),
        (["--from", "kafka", "--from", "events.csv"], "in another backfill"),
        (["--from", "kafka", "--order-by", "timestamp"], "--order-by is for files"),
        (["--from", "events.csv", "--order-by", "page_id"], "name a field with a number"),
        (["--from", "events.csv", "--order-by", "when"], "PageView has no field 'when'"),
        (["--from", "events.csv", "--since", "monday"], "--since is 'monday'"),
        (["--from", "events.csv", "--labels", "buys.csv"], "--labels needs --label-horizon"),
        (["--from", "events.csv", "--label-horizon", "5m"], "give them with --labels"),
        (["--from", "events.csv", "--labels", "b.csv", "--label-horizon", "soon"], "--label-horizon"),
        (["--from", "events.csv", "--labels", "b.csv", "--label-horizon", "5m", "--label-absent", "1"], "0 or missing"),
        (["--from", "events.csv", "--labels", "b.csv", "--label-horizon", "5m", "--label-column", "user_id"], "who"),
        (["--from", "events.csv", "--labels", "none.csv", "--label-horizon", "5m"], "none.csv is no file"),
    ],
)
def test_backfill_refuses_what_it_cannot_do_in_one_line(tmp_path: Path, options: list[str], said: str) -> None:
    (tmp_path / "events.csv").write_text("event_id,user_id,page_id,dwell_time_sec,timestamp\n")
    (tmp_path / "b.csv").write_text("user_id,timestamp\n")
    assert said in refusal(millrace(*BACKFILL, *options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.csv", "events.csv"]


def test_backfill_overwrites_nothing_unasked(tmp_path: Path) -> None:
    (tmp_path / "set.parquet").write_text("mine")
    assert "--replace" in refusal(millrace(*BACKFILL, "--from", "events.csv"))
    assert "is a folder" not in refusal(millrace(*BACKFILL[:-1], "nowhere/set.parquet", "--from", "events.csv"))
    assert (tmp_path / "set.parquet").read_text() == "mine"


def test_training_takes_either_a_set_or_shoppers() -> None:
    assert "give one of them" in refusal(millrace("train", "purchase", "--from", "set.parquet", "--events", "5000"))
    assert "give one with --from" in refusal(millrace("train", "purchase", "--label", "bought"))
    assert "is not a file" in refusal(millrace("train", "purchase", "--from", "set.parquet"))


def test_wrong_start_is_refused_with_what_can_be_written() -> None:
    assert "earliest, committed, latest" in refusal(millrace("run", "purchase", "--from", "yesterday"))


def test_wrong_retention_is_refused_with_an_example() -> None:
    assert "'7d'" in refusal(millrace("topics", "create", "purchase", "--retention", "a week"))


def test_debug_shows_the_stack_trace() -> None:
    result = millrace("describe", "nope", "--debug")
    assert result.exit_code == 1
    assert type(result.exception).__name__ == "PipelineError"


def test_down_without_a_broker_says_so_and_is_no_failure() -> None:
    result = millrace("down")
    assert result.exit_code == 0
    assert "no broker runs" in result.stdout


def test_describe_as_json_is_one_document_with_the_features_in_order() -> None:
    result = millrace("describe", "purchase", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert [row["name"] for row in document["features"]][:3] == [
        "dwell_time_sec",
        "page_id_is_home",
        "page_id_is_product",
    ]
    assert document["topics"]["events"] == "user-events"
    assert document["model"]["problem"] is None
    assert document["model"]["metrics"]["model"]["auc"] > document["model"]["metrics"]["baseline"]["auc"]
    assert document["state"]["bytes_per_event"] > 0


def test_describe_of_a_pipeline_without_a_model_says_what_makes_one(tmp_path: Path) -> None:
    (tmp_path / "fraud.py").write_text(PIPELINE)
    result = millrace("describe", "fraud.py")
    assert result.exit_code == 0
    assert "millrace train fraud" in result.stdout


def test_doctor_is_broken_when_the_broker_that_was_named_does_not_answer(
    no_broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flink_jobs.doctor.BROKER_WAIT_S", 0.5)
    result = millrace("doctor", "--json")
    document = json.loads(result.stdout)
    broker = next(finding for finding in document["findings"] if finding["what"] == "broker")
    assert result.exit_code == 1
    assert broker["state"] == "broken"
    assert no_broker in broker["found"]
    assert all(finding["advice"] for finding in document["findings"] if finding["state"] != "ok")


def test_doctor_changes_nothing(tmp_path: Path, no_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flink_jobs.doctor.BROKER_WAIT_S", 0.5)
    millrace("doctor")
    assert list(tmp_path.iterdir()) == []


def test_named_broker_wins_over_the_local_one(no_broker: str) -> None:
    assert resolve_bootstrap(load_settings()) == no_broker


def test_start_may_be_a_word_or_a_time() -> None:
    assert parse_start("latest") == "latest"
    assert parse_start("1760000000000") == "1760000000000"
    assert parse_start("2025-10-09T08:53:20Z") == "1760000000000"
    assert parse_start("2025-10-09T08:53:20") == "1760000000000"  # without an offset it is UTC
    with pytest.raises(CommandError, match="milliseconds"):
        parse_start("soon")


def test_run_goes_on_from_the_last_restore_point_unless_told_otherwise() -> None:
    point = "file:///home/checkpoints/purchase/savepoints/savepoint-1"
    assert choose_start(None, False, point, "user-events").restore_from == point
    assert choose_start(None, True, point, "user-events").restore_from is None
    latest = choose_start("latest", False, point, "user-events")
    assert (latest.start_from, latest.restore_from) == ("latest", None)
    assert "without the state of the last run" in latest.text
    assert "no earlier run" in choose_start(None, False, None, "user-events").text
