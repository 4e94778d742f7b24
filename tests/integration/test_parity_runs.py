"""`millrace parity` as a user runs it: the real job, the backfill and the oracle on the same records."""

import json
import os
import subprocess
import sys
from pathlib import Path

import online_retail
import pytest
from workloads import order_lines

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PURCHASE_FEATURES = 18
LINES = 10_000


def parity(tmp_path, *arguments):
    home = tmp_path / "home"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    ran = subprocess.run(
        [sys.executable, "-m", "flink_jobs.cli", "parity", *arguments, "--json"],
        env={**os.environ, "PYTHONPATH": paths, "MILLRACE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout[:3_000]
    assert [path.name for path in home.iterdir()] == ["logs"]
    return json.loads(ran.stdout)


def test_all_engines_agree_on_every_feature_of_every_hard_event(tmp_path):
    found = parity(tmp_path, "purchase", "--events", "3000", "--seed", "11")
    assert (found["events"], found["features"], found["differences"]) == (3_000, PURCHASE_FEATURES, 0)
    assert set(found["engines"]) >= {"oracle", "streaming", "backfill"}
    pairs = {tuple(each["engines"]) for each in found["comparisons"]}
    assert {("oracle", "streaming"), ("oracle", "backfill"), ("streaming", "backfill")} <= pairs
    events = found["events"] - found["refused"]
    assert found["refused"] > 20
    for each in found["comparisons"]:
        if "sql" not in each["engines"] and not each["feature"].startswith("("):
            assert each["compared"] == events, each


@pytest.mark.skipif(not online_retail.is_there(), reason="../shared/data/online_retail is not there")
def test_the_backfill_agrees_with_the_oracle_on_real_order_lines(tmp_path):
    (tmp_path / "retail.py").write_text("from online_retail import RETAIL as pipeline\n")
    records, _ = order_lines(LINES)
    lines = [value for _, value in records if value and value.startswith(b"{") and b"\n" not in value]
    (tmp_path / "lines.jsonl").write_bytes(b"\n".join(lines))
    found = parity(
        tmp_path, str(tmp_path / "retail.py"), "--data", str(tmp_path / "lines.jsonl"), "--events", str(LINES),
        "--engines", "oracle,backfill",
    )  # fmt: skip
    assert found["differences"] == 0
    assert found["events"] == LINES
    assert found["refused"] > 1_000, "lines without a customer"
    assert found["compared"] > 38 * (LINES - found["refused"])
