"""The bench's own arithmetic: it must not print a number that is wrong, nor leave a process behind."""

import json
import math
import os
import sys
import time
from xml.etree import ElementTree

import psutil
import pytest

from tests.benchmarks import __main__ as bench
from tests.benchmarks import beam_run, formats, peers, plot, ratios, results, sql
from tests.benchmarks.child_process import child, end_of
from tests.benchmarks.cpu_time import cpu_s
from tests.benchmarks.outcomes import (
    ContestantError,
    Outcome,
    check_agreement,
    speed_between_outputs,
    speed_by_difference,
)


def outcome(scores, events_per_s=1.0, **rest):
    return Outcome(scores=scores, records=len(scores), events_per_s=events_per_s, **rest)


def test_agreement_is_the_largest_difference_of_the_same_events():
    reference = outcome({"a": 0.5, "b": 0.25, "c": 0.1})
    assert check_agreement(outcome({"a": 0.5, "b": 0.25 + 5e-7}), reference) == pytest.approx(5e-7)


@pytest.mark.parametrize(
    ("scores", "records", "said"),
    [
        ({"a": 0.5 + 2e-6}, 1, "disagrees on 1 of 1"),
        ({"a": math.nan}, 1, "disagrees on 1 of 1"),
        ({"z": 0.5}, 1, "did not, e.g. z"),
        ({"a": 0.5}, 2, "2 predictions of 1 events"),
        ({}, 0, "no prediction"),
    ],
)
def test_whoever_did_other_work_has_no_speed(scores, records, said):
    wrong = outcome(scores)
    wrong.records = records
    with pytest.raises(ContestantError, match=said):
        check_agreement(wrong, outcome({"a": 0.5}))


def test_speed_between_outputs_leaves_out_the_first_three_tenths():
    slow_start = [1_000 * i for i in range(30)]
    fast = [30_000 + 10 * i for i in range(70)]
    assert speed_between_outputs(fast[::-1] + slow_start) == pytest.approx(70 / 0.69)


@pytest.mark.parametrize("times", [[], [5], [5, 5, 5]])
def test_outputs_at_one_moment_tell_no_speed(times):
    with pytest.raises(ContestantError, match="too few"):
        speed_between_outputs(times)


def test_speed_by_difference_leaves_out_what_both_sizes_do_once():
    start_s = 7.0
    assert speed_by_difference(1_000, start_s + 1, 5_000, start_s + 5) == pytest.approx(1_000)


@pytest.mark.parametrize(("large", "large_s"), [(5_000, 2.0), (5_000, 1.5), (1_000, 3.0)])
def test_two_sizes_without_a_difference_tell_no_speed(large, large_s):
    with pytest.raises(ContestantError, match="no speed"):
        speed_by_difference(1_000, 2.0, large, large_s)


def test_every_contestant_has_a_ratio_of_its_name_and_millrace_has_none():
    outcomes = {
        "millrace": outcome({"a": 0.5}, 30_000, cpu_us={"jvm": 12.345}, other_cores=0.254),
        "quix": outcome({"a": 0.5}, 5_000),
        "per_record_thread": outcome({"a": 0.5}, 1_500),
    }
    assert ratios.as_results(outcomes) == {
        "events_per_s_millrace": 30_000,
        "other_cores_millrace": 0.25,
        "cpu_us_per_event_millrace_jvm": 12.35,
        "events_per_s_quix": 5_000,
        "other_cores_quix": 0.0,
        "events_per_s_per_record_thread": 1_500,
        "other_cores_per_record_thread": 0.0,
        "ratio_quix": 6.0,
        "ratio_per_record_thread": 20.0,
    }


def test_two_runs_of_our_own_count_by_their_mean():
    speeds = {"millrace": 40_000, "quix": 5_000, "millrace_again": 20_000}
    assert ratios.as_results({name: outcome({}, speed) for name, speed in speeds.items()})["ratio_quix"] == 6.0


def test_the_contest_gives_every_ratio_that_the_bench_has_a_target_for():
    quick = {f"ratio_{contestant.name}" for contestant in ratios.contestants(ratios.QUICK, ratios.NAMES)}
    wanted = {target.key for target in results.TARGETS if target.key.startswith("ratio_")} - {"ratio_1m_entities"}
    by_sql = {f"ratio_{name}" for name in sql.AGAINST}
    assert wanted <= quick | by_sql
    assert set(plot.RATIOS) <= quick


def test_sql_is_compared_with_the_loop_that_does_the_same_work(tmp_path):
    names = [contestant.name for contestant in sql.contestants(1_000, 500, 100, tmp_path)]
    for name, loop in sql.AGAINST.items():
        assert names.index(loop) < names.index(name), "what is compared with has run before"
    speeds = dict(zip(names, (100.0, 170.0, 120.0, 50.0, 25.0), strict=True))
    found = sql.as_results({name: outcome({}, speed) for name, speed in speeds.items()})
    assert [found[f"ratio_{name}"] for name in sql.AGAINST] == [1.7, 1.2, 0.5]


@pytest.mark.parametrize(
    ("scores", "why"),
    [({"a": 0.5, "b": 0.25}, None), ({"a": 0.5, "b": 0.2501}, "disagrees"), ({"x": 0.5, "y": 0.1}, "only 0")],
)
def test_sql_has_no_ratio_if_its_scores_are_others(scores, why):
    reference, found = outcome({"a": 0.5, "b": 0.25, "e": 0.1}, 1.0), outcome(scores, 1.0)
    if why is None:
        sql.check(found, reference)
        return
    with pytest.raises(ContestantError, match=why):
        sql.check(found, reference)


def test_millrace_runs_first_whatever_is_chosen():
    assert [one.name for one in ratios.contestants(ratios.QUICK, ["beam", "quix"])] == ["millrace", "quix", "beam"]


@pytest.mark.parametrize("sizes", [ratios.QUICK, ratios.FULL])
def test_nobody_scores_more_events_than_millrace(sizes):
    assert max((*sizes.slow.values(), *sizes.beam)) <= sizes.fast


def test_a_peer_that_cannot_be_installed_is_left_out_and_said_to_be(monkeypatch, capsys):
    def refuse(peer):
        raise peers.PeerUnavailableError("no such version")

    monkeypatch.setattr(ratios, "python_of", refuse)
    field = ratios.ready(ratios.contestants(ratios.QUICK, ["bare_loop", "quix"]))
    assert [one.name for one in field] == ["millrace", "bare_loop"]
    assert capsys.readouterr().out == "quix: skipped, it cannot be installed: no such version\n"


def test_the_reason_of_pip_is_one_line_without_addresses():
    output = "Looking in indexes: https://name:word@host/simple\nERROR: Could not find x==9 at https://host/simple/x\n"
    assert peers.reason(output) == "Could not find x==9 at …"
    assert peers.reason("") == "no reason was given"


def test_an_environment_of_other_pins_is_another_folder():
    assert peers.QUIX.folder != peers.Peer("quix", ("quixstreams==1",)).folder
    assert peers.QUIX.folder == peers.Peer("quix", peers.QUIX.packages).folder


def test_an_interrupted_installation_is_made_anew(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    ran = []
    monkeypatch.setattr(peers, "_run", ran.append)
    (peers.QUIX.folder / "bin").mkdir(parents=True)
    monkeypatch.setattr(peers.shutil, "rmtree", lambda folder, **_: ran.append(folder))
    peers.python_of(peers.QUIX)
    assert ran[0] == peers.QUIX.folder
    assert len(ran) == 3
    peers.python_of(peers.QUIX)
    assert len(ran) == 3


@pytest.mark.parametrize(
    ("only", "quick", "profile", "measures", "contestants"),
    [
        ([], True, False, ["ratios"], []),
        ([], False, False, list(bench.MEASURES), []),
        ([], True, True, ["ratios", "stages"], []),
        (["soak", "latency"], False, False, ["latency", "soak"], []),
        (["quix", "beam"], True, False, ["ratios"], ["quix", "beam"]),
        (["engine", "quix"], False, False, ["ratios", "engine"], ["quix"]),
    ],
)
def test_names_choose_measures_and_contestants(only, quick, profile, measures, contestants):
    assert bench.chosen(only, quick=quick, profile=profile) == (measures, contestants)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(SystemExit, match=r"is called flnk; there are ratios, .*quix"):
        bench.chosen(["flnk"], quick=False, profile=False)


def test_the_names_of_contestants_are_those_of_the_contest():
    assert set(bench.CONTESTANTS) == set(ratios.NAMES) - {ratios.AGAIN}


def test_a_measure_that_is_missing_fails_and_the_others_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "RESULT", tmp_path / "bench.json")

    def halt(quick):
        raise SystemExit("the job ended")

    def half(quick):
        raise results.PartialError("quix: it hangs", {"ratio_beam": 2.0})

    measures = {"gone": bench.of_module("gone"), "halt": halt, "half": half, "whole": lambda quick: {"quick": quick}}
    failures = bench.run(measures, {"old": 1.0}, quick=True)
    assert [line.split(":")[0] for line in failures] == ["gone", "halt", "half"]
    assert json.loads(bench.RESULT.read_text()) == {"old": 1.0, "ratio_beam": 2.0, "quick": True}


def test_ctrl_c_in_a_measure_ends_the_bench():
    def interrupted(quick):
        bench.interrupt()

    with pytest.raises(KeyboardInterrupt):
        bench.run({"one": interrupted}, {}, quick=True)


def test_a_part_of_the_bench_keeps_the_figures_of_the_rest():
    machine = {"cores": 2, "cpu": "A"}
    assert results.figures_of(machine, {**machine, "ratio_beam": 2.0}) == {**machine, "ratio_beam": 2.0}


def test_figures_of_another_machine_are_dropped():
    assert results.figures_of({"cores": 2, "cpu": "A"}, {"cores": 8, "cpu": "A", "ratio_beam": 2.0}) == {
        "cores": 2,
        "cpu": "A",
    }


def test_the_table_names_what_falls_short():
    lines = results.table({"ratio_quix": 5.9, "ratio_bare_loop": 1.3, "latency_p99_ms": 120, "cpu": "A"}).splitlines()
    assert len(lines) == 4
    assert [line.endswith("falls short") for line in lines] == [False, False, True, True]


def test_shares_are_of_the_whole_and_the_rest_of_python_is_crossing():
    cpu = {"jvm": 30.0, "jvm_source": 10.0, "python": 10.0}
    figures = {f"cpu_us_per_event_millrace_{kind}": us for kind, us in cpu.items()}
    said = results.shares({**figures, "stage_us_onnx_batch_500": 4.0})
    assert "JVM source" in said
    assert "25.0%" in said
    assert "Python crossing and rest        6.00 us   15.0%" in said


FIGURES = {"cores": 2, "ratio_bare_loop": 0.8, "ratio_quix": 6.12, "ratio_per_record_process": 31.4}


def test_the_picture_is_svg_with_a_bar_and_a_number_for_each_ratio():
    picture = ElementTree.fromstring(plot.svg(FIGURES))
    space = {"": "http://www.w3.org/2000/svg"}
    widths = [float(bar.get("width", "")) for bar in picture.findall("rect[@class='bar']", space)]
    assert len(widths) == 3
    assert widths[0] == 0 < widths[1] < widths[2] < plot.WIDTH - plot.LEFT
    texts = {text.text for text in picture.findall("text", space)}
    assert {"0.8x", "6.12x", "31.4x"} <= texts


def test_the_picture_has_latencies_only_when_they_were_measured():
    assert "Latency" not in plot.svg(FIGURES)
    assert "Latency" in plot.svg({**FIGURES, "latency_p50_ms": 48.0})


def test_the_picture_is_readable_in_light_and_in_dark_mode():
    picture = plot.svg(FIGURES)
    light, dark = picture.split("prefers-color-scheme: dark")
    assert "#ffffff" in light
    assert "#0d1117" in dark


@pytest.mark.parametrize(
    ("axis", "largest", "marks"),
    [
        (plot.ratio_axis, 31.4, (1, 3, 10, 30, 100)),
        (plot.ratio_axis, 0.5, (1, 3)),
        (plot.latency_axis, 1_130, (0, 250, 500, 750, 1_000, 1_250)),
        (plot.latency_axis, 48, (0, 10, 20, 30, 40, 50)),
    ],
)
def test_an_axis_reaches_the_largest_value(axis, largest, marks):
    assert axis(largest).marks == marks
    assert axis(largest).x(marks[-1]) == plot.WIDTH - plot.LEFT - plot.RIGHT


def test_a_child_is_told_by_its_input_that_it_is_over(tmp_path):
    code = "import sys; print('started', flush=True); sys.stdin.read(); print('ended in order')"
    with child([sys.executable, "-c", code], tmp_path / "log") as process:
        pass
    assert process.returncode == 0
    assert end_of(tmp_path / "log") == "started\nended in order"


def test_nothing_of_a_child_is_left_after_an_error_orphans_included(tmp_path):
    script = "(sleep 600 & sleep 600 & echo $! > grandchild); trap '' TERM HUP; cat > /dev/null; sleep 600"
    written = tmp_path / "grandchild"

    def interrupt_when_it_is_there():
        with child(["bash", "-c", f"cd {tmp_path}; {script}"], tmp_path / "log"):
            while not (written.exists() and written.read_text()):
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt_when_it_is_there()
    orphan = int(written.read_text())
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE


BEAM_STUB = """
import json, sys
def main():
    _workers, source, output, seconds, *sizes = sys.argv[1:]
    lines = open(source, "rb").read().splitlines()
    events = [json.loads(line.partition(b"\\t")[2])["event_id"] for line in lines]
    with open(output, "w") as file:
        for event in events:
            file.write(json.dumps({"event_id": event, "user_id": "u", "purchase_probability": 0.5}) + "\\n")
    with open(seconds, "w") as file:
        json.dump([9.0, 2.0, 4.0], file)
"""


def test_cpu_time_is_told_apart_by_process(tmp_path):
    code = "import select, sys\nwhile not select.select([sys.stdin], [], [], 0)[0]: sum(range(10_000))"
    with child([sys.executable, "-c", code], tmp_path / "log") as process:
        before = cpu_s(process.pid, os.getpid())
        while (after := cpu_s(process.pid, os.getpid()))["python"] < before["python"] + 0.1:
            time.sleep(0.02)
    assert after["jvm"] == 0.0
    assert after["others"] >= before["others"] - 0.2  # the clocks of processes and of the machine tick apart


def test_beam_is_timed_by_the_difference_and_its_predictions_are_read(monkeypatch, tmp_path):
    (tmp_path / "beam_stub.py").write_text(BEAM_STUB)
    monkeypatch.setattr(beam_run, "MODULE", "beam_stub")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("tests.benchmarks.child_process.PROJECT_ROOT", tmp_path)
    found = beam_run.run_beam(sys.executable, "0", (10, 30), tmp_path / "home", timeout_s=30)
    assert found.events_per_s == 10.0
    assert found.records == len(found.scores) == 30


def test_a_peer_that_fails_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(beam_run, "MODULE", "no_such_module")
    with pytest.raises(ContestantError, match=r"status 1:[\s\S]*no_such_module"):
        beam_run.run_beam(sys.executable, "0", (10, 30), tmp_path / "home", timeout_s=30)


def test_formats_are_compared_by_the_means_of_their_runs():
    runs = {
        "json": [outcome({}, 80.0, cpu_us={"jvm": 10.0, "jvm_source": 4.0}), outcome({}, 120.0, cpu_us={"jvm": 20.0})],
        "avro": [outcome({}, 70.0, cpu_us={"jvm": 9.0, "python": 3.0}), outcome({}, 90.0, cpu_us={"broker": 12.0})],
    }
    assert formats.as_results(runs) == {
        "format_job_events_per_s_json": 100, "format_job_events_per_s_avro": 80, "format_job_cpu_us_json": 15.0,
        "format_job_cpu_us_avro": 12.0, "format_job_ratio_avro": 0.8, "format_job_cpu_ratio_avro": 1.25,
    }  # fmt: skip
