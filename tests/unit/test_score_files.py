"""`millrace score`: files of features or of events, with a reference to a model; every refused row has its place."""

import csv
import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backfills import features_of, request
from onnx_graphs import write_sum
from typer.testing import CliRunner
from wire_records import PURCHASE, Shard, open_shipped, shopper_records, value_of

from flink_jobs import feature_files
from flink_jobs.backfill_job import run_backfill
from flink_jobs.cli import app
from models.opened import open_alone


@pytest.fixture
def folder(tmp_path):
    write_sum(tmp_path / "sum" / "1", features=("a", "b"))
    return tmp_path


def run(*arguments, fails=False):
    """What the command says, as JSON."""
    ran = CliRunner().invoke(app, ["score", *map(str, arguments), *([] if fails else ["--json"])])
    assert ran.exit_code == (1 if fails else 0), ran.output + repr(ran.exception)
    return " ".join(ran.output.split()) if fails else json.loads(ran.output)


def rows_of(path):
    """Records of a result in any format, as Python's values."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open() as file:
        return [{**row, "record": int(row["record"]), "score": float(row["score"])} for row in csv.DictReader(file)]


def write_rows(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=40)
        return path
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        if ".csv" in path.suffixes:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.mark.parametrize("to", ["scores.parquet", "scores.csv", "scores.jsonl"])
@pytest.mark.parametrize("source", ["rows.jsonl", "rows.csv", "rows.parquet", "rows.jsonl.gz", "rows.csv.gz"])
def test_scores_are_the_models_to_the_last_bit(tmp_path, monkeypatch, source, to):
    monkeypatch.setattr(feature_files, "BLOCK_ROWS", 7)
    model = open_alone("purchase/2")
    features = np.random.default_rng(1).exponential(30, (100, 18))
    rows = [
        {"who": f"user, {place}", **dict(zip(model.manifest.features, row.tolist(), strict=True))}
        for place, row in enumerate(features)
    ]
    rows[3][model.manifest.features[0]] = None
    features[3, 0] = np.nan
    told = run(write_rows(tmp_path / source, rows), "--model", "purchase/2", "--id", "who", "--to", tmp_path / to)
    found = rows_of(tmp_path / to)
    assert [row["score"] for row in found] == model.predict(features).tolist()
    assert [(row["record"], row["who"]) for row in found] == [(n + 1, f"user, {n}") for n in range(100)]
    assert told | {"elapsed_s": 0} == {
        "model": f"purchase/2@{model.manifest.sha256}", "source": str(tmp_path / source), "file": str(tmp_path / to),
        "rows": 100, "scored": 100, "refused": {}, "first_refused": [], "letters": None, "elapsed_s": 0,
    }  # fmt: skip
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([source, to])


def test_refused_rows_have_a_reason_and_a_place(folder):
    bad = ["[1, 2]", '{"a": 1}', "", '{"a": "x", "b": 1}', '{"a": 1, "b": null}', "{"]
    (folder / "rows.jsonl").write_text("\n".join(['{"a": 1, "b": 2}', *bad, '{"a": 1, "b": 3}']))
    told = run(folder / "rows.jsonl", "--model", folder / "sum" / "1", "--to", folder / "out.jsonl")
    assert rows_of(folder / "out.jsonl") == [{"record": 1, "score": 3.0}, {"record": 7, "score": 4.0}]
    assert (told["rows"], told["scored"]) == (7, 2)
    assert told["refused"] == {"missing_field": 1, "model_failed": 1, "not_json": 2, "wrong_type": 1}
    letters = rows_of(folder / "out.dead_letters.jsonl")
    assert [(letter["record"], letter["reason"]) for letter in letters] == [
        (2, "not_json"), (3, "missing_field"), (4, "wrong_type"), (5, "model_failed"), (6, "not_json"),
    ]  # fmt: skip
    assert letters[1]["detail"] == "the row has no feature b"
    assert letters[3]["detail"] == "the model's score is nan"
    assert told["first_refused"][1] == "record 3: missing_field, the row has no feature b"


def test_cells_that_are_no_numbers_are_refused_where_they_are(folder):
    (folder / "rows.csv").write_text('a,id,b\n1,"x\ny",2\n1,p\none,q,2\n1,r,2,3\n2,s, 5 \n')
    told = run(folder / "rows.csv", "--model", folder / "sum" / "1", "--to", folder / "out.csv", "--id", "id")
    assert rows_of(folder / "out.csv") == [
        {"record": 1, "id": "x\ny", "score": 3.0}, {"record": 5, "id": "s", "score": 7.0}
    ]  # fmt: skip
    assert told["first_refused"] == [
        "record 2: missing_field, the row has no feature b",
        "record 3: wrong_type, feature a is 'one', no number",
        "record 4: wrong_type, the row has 1 cells beyond the header's columns",
    ]


def test_letters_of_an_earlier_run_go_away(folder):
    rows, to = folder / "rows.jsonl", folder / "out.jsonl"
    rows.write_text("{}")
    assert run(rows, "--model", folder / "sum" / "1", "--to", to)["letters"] == str(folder / "out.dead_letters.jsonl")
    rows.write_text('{"a": 1, "b": 1}')
    assert run(rows, "--model", folder / "sum" / "1", "--to", to, "--replace")["letters"] is None
    assert not (folder / "out.dead_letters.jsonl").exists()


@pytest.mark.parametrize("source", ["rows.jsonl", "rows.csv", "rows.parquet"])
@pytest.mark.parametrize("to", ["scores.parquet", "scores.csv", "scores.jsonl"])
def test_a_file_without_rows_gives_one_without_scores(folder, source, to):
    if source == "rows.parquet":
        pq.write_table(pa.table({"a": pa.array([], pa.int64()), "b": pa.array([], pa.float32())}), folder / source)
    else:
        (folder / source).write_text("a,b\n" if source == "rows.csv" else "")
    assert run(folder / source, "--model", folder / "sum" / "1", "--to", folder / to)["rows"] == 0
    assert rows_of(folder / to) == []


def test_numbers_of_any_arrow_type_are_features(folder):
    columns = {"a": pa.array([2**60 + 1, None], pa.int64()), "b": pa.array([True, False])}
    pq.write_table(pa.table({**columns, "c": pa.array(["p", "q"]).dictionary_encode()}), folder / "rows.parquet")
    told = run(folder / "rows.parquet", "--model", folder / "sum" / "1", "--to", folder / "out.csv", "--id", "c")
    assert [(row["c"], row["score"]) for row in rows_of(folder / "out.csv")] == [("p", 2.0**60 + 1)]
    assert told["first_refused"] == ["record 2: model_failed, the model's score is nan"]


def write_events(path):
    """The shipped pipeline's events, one of them broken."""
    values = [value for _, value in shopper_records(400)]
    path.write_bytes(b"\n".join([*values[:200], b'{"user_id": 1}', *values[200:]]))
    return path


def test_events_get_the_scores_of_the_job(tmp_path):
    events = write_events(tmp_path / "events.jsonl")
    told = run(events, "--pipeline", "purchase", "--to", tmp_path / "out.parquet", "--processes", 1)
    wanted = [value_of(each) for each in Shard(open_shipped(PURCHASE.model.version)).score(shopper_records(400))]
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["_event_id"], row["_entity"], row[PURCHASE.prediction]) for row in found] == [
        (each["event_id"], each["user_id"], each[PURCHASE.prediction]) for each in wanted
    ]
    assert (told["rows"], told["scored"], told["refused"]) == (401, 400, {"missing_field": 1})
    [letter] = rows_of(tmp_path / "out.dead_letters.jsonl")
    assert (letter["record"], letter["value"]) == (201, '{"user_id": 1}')
    assert sorted(each.name for each in tmp_path.iterdir()) == ["events.jsonl", "out.dead_letters.jsonl", "out.parquet"]


def test_a_training_set_scores_as_its_events_do(tmp_path):
    made = run_backfill(request(PURCHASE, write_events(tmp_path / "events.jsonl"), tmp_path / "set.parquet"))
    assert made.rows == 400
    run(tmp_path / "events.jsonl", "--pipeline", "purchase", "--model", "purchase/2", "--to", tmp_path / "a.jsonl",
        "--processes", 1)  # fmt: skip
    run(tmp_path / "set.parquet", "--model", "purchase/2", "--to", tmp_path / "b.jsonl")
    first, second = rows_of(tmp_path / "a.jsonl"), rows_of(tmp_path / "b.jsonl")
    assert [(row["_event_id"], row[PURCHASE.prediction]) for row in first] == [
        (row["_event_id"], row["score"]) for row in second
    ]
    features = features_of(pq.read_table(tmp_path / "set.parquet"), PURCHASE)
    assert [row["score"] for row in second] == open_shipped(2).predict(features).tolist()


def test_a_training_set_of_other_definitions_is_refused(tmp_path):
    run_backfill(request(PURCHASE, write_events(tmp_path / "events.jsonl"), tmp_path / "set.parquet"))
    write_sum(tmp_path / "m", width=18, features=PURCHASE.feature_names)
    said = run(tmp_path / "set.parquet", "--model", tmp_path / "m", "--to", tmp_path / "out.csv", fails=True)
    assert "made with other definitions of its features than sum/1" in said


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["rows.csv", "--model", "sum/1", "--to", "out.xml"], "write a .parquet, .csv or .jsonl file"),
        (["rows.csv", "--model", "sum/1", "--to", "rows.csv"], "is there already"),
        (["rows.csv", "--model", "sum/1", "--to", "no/out.csv"], "is not there"),
        (["rows.csv", "--to", "out.csv"], "give --model"),
        (["rows.csv", "--model", "sum/2", "--to", "out.csv"], "no model 'sum/2'"),
        (["rows.csv", "--model", f"sum/1@{'0' * 64}", "--to", "out.csv"], "asked for was"),
        (["rows.csv", "--model", "sum/1", "--to", "out.csv", "--id", "c"], "no column b, c; it has a"),
        (["rows.csv", "--model", "sum/1", "--to", "out.csv"], "no column b; it has a"),
        (["none.csv", "--model", "sum/1", "--to", "out.csv"], "is not a file"),
        (["text.parquet", "--model", "sum/1", "--to", "out.csv"], "column a is string, no numbers"),
        (["rows.csv", "--model", "sum/1", "--to", "out.csv", "--order-by", "a"], "are for events of a --pipeline"),
        (["rows.csv", "--pipeline", "purchase", "--to", "out.csv", "--id", "a"], "--id is for rows of features"),
        (["rows.csv", "--pipeline", "purchase", "--to", "out.csv"], "has no column"),
    ],
)
def test_what_cannot_be_scored_is_said_in_one_line(folder, monkeypatch, arguments, why):
    monkeypatch.chdir(folder)
    (folder / "rows.csv").write_text("a\n1\n")
    pq.write_table(pa.table({"a": ["x"], "b": [1]}), folder / "text.parquet")
    said = run(*arguments, "--root", folder, fails=True)
    assert why in said
    left = {"rows.csv", "text.parquet", "sum"}
    assert {each.name for each in folder.iterdir()} == left
