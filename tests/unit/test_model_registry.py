"""`millrace models`: versions listed, shown and retired."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from flink_jobs.cli import app
from models.json_document import ModelRefusedError
from models.manifest import MODEL_FILE
from models.opened import SHIPPED, find_model
from models.registry import draft_folder, make_version, read_version, retire, retired_reason


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder of models that a test may change."""
    monkeypatch.setenv("COLUMNS", "250")
    shutil.copytree(SHIPPED / "purchase", tmp_path / "models" / "purchase")
    return tmp_path / "models"


def millrace(root, *arguments, as_json=True):
    last = ("--json",) if as_json else ()
    return CliRunner().invoke(app, ["models", *arguments, "--root", str(root), *last])


def document(result):
    assert result.exit_code == 0, result.output
    [line] = result.stdout.splitlines()
    return json.loads(line)


def test_versions_are_listed_with_what_decides_between_them(root):
    rows = document(millrace(root, "ls", "purchase"))["versions"]
    assert [(row["version"], row["named"], row["problem"]) for row in rows] == [(1, False, None), (2, True, None)]
    assert rows[1]["metrics"]["model"]["auc"] > 0.7
    shown = millrace(root, "ls", "purchase", as_json=False).stdout
    assert "0.7694" in shown
    assert rows[0]["sha256"][:12] in shown


def test_version_that_cannot_be_used_is_listed_with_why(root):
    (root / "purchase" / "3").mkdir()
    (root / "purchase" / "4").mkdir()
    (root / "purchase" / "4" / "manifest.json").write_text("{")
    shutil.copytree(root / "purchase" / "2", root / "purchase" / "5")
    problems = {row["version"]: row["problem"] for row in document(millrace(root, "ls", "purchase"))["versions"]}
    assert problems[3] == "manifest.json is not there"
    assert "not JSON" in problems[4]
    assert problems[5] == "holds purchase/2: move the folder"


def test_version_of_other_features_says_which(root):
    path = root / "purchase" / "1" / "manifest.json"
    path.write_text(path.read_text().replace("dwell_time_sec", "dwell_time_min"))
    [row, _] = document(millrace(root, "ls", "purchase"))["versions"]
    assert row["problem"] == "takes features that the pipeline does not have: dwell_time_min"


def test_show_says_how_features_become_inputs(root):
    shown = document(millrace(root, "show", "purchase", "1"))
    assert [each["name"] for each in shown["inputs"]] == ["dwell_time_sec", "page_id"]
    assert shown["output"] == {"name": "probability", "kind": "tensor", "item": None, "column": 0, "class": None}
    assert "probability (tensor, column 0)" in millrace(root, "show", "purchase", "1", as_json=False).stdout
    assert document(millrace(root, "show", "purchase"))["version"] == 2


def test_version_that_is_not_there_is_refused_with_those_that_are(root):
    for command in ("show", "retire"):
        result = millrace(root, command, "purchase", "9")
        assert result.exit_code == 1
        assert "no version 9 of purchase" in result.stderr
        assert "there are 1, 2" in result.stderr


def test_retired_version_says_why_until_that_is_taken_back(root):
    result = millrace(root, "retire", "purchase", "1", "--reason", "drifted", as_json=False)
    assert "models retire purchase 1 --undo" in result.stderr
    assert retired_reason(root, "purchase", 1) == "drifted"
    assert "retired: drifted" in millrace(root, "ls", "purchase", as_json=False).stdout
    assert read_version(root, "purchase", 1).problem is None
    assert document(millrace(root, "retire", "purchase", "1", "--undo"))["retired"] is False
    assert retired_reason(root, "purchase", 1) is None
    assert "was not retired" in millrace(root, "retire", "purchase", "1", "--undo", as_json=False).stdout


def test_name_without_a_version_means_the_newest_that_is_not_retired(root):
    assert find_model("purchase", root).name == "2"
    retire(root, "purchase", 2, "")
    assert find_model("purchase", root).name == "1"
    assert find_model("purchase/2", root).name == "2"


def test_version_that_the_pipeline_names_is_not_retired(root):
    result = millrace(root, "retire", "purchase", "2")
    assert result.exit_code == 1
    assert "name another one there first" in result.stderr
    assert retired_reason(root, "purchase", 2) is None


def test_draft_becomes_a_version_whole_or_not_at_all(root):
    with draft_folder(root, "purchase") as draft:
        (draft / MODEL_FILE).write_bytes(b"x")
        with pytest.raises(ModelRefusedError, match="is there already"):
            make_version(draft, 2)
        made = make_version(draft, 3)
    assert (made / MODEL_FILE).read_bytes() == b"x"
    with draft_folder(root, "purchase") as draft:
        (draft / MODEL_FILE).write_bytes(b"x")
    assert sorted(path.name for path in (root / "purchase").iterdir()) == ["1", "2", "3"]
