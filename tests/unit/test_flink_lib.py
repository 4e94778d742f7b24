"""The folder of jars for every Java machine of Flink's: what is in it, and that it is made once."""

import pytest

from flink_jobs.local import flink_lib, jars


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A distribution as in Flink's image: flink-python also in lib/, and its changed part, from an earlier time."""
    real = flink_lib.flink_python_jar(flink_lib.flink_home())
    for name in ("lib", "opt", "cache"):
        (tmp_path / name).mkdir()
    for place in ("lib", "opt"):
        (tmp_path / place / real.name).symlink_to(real)
    for name in ("flink-dist-1.jar", flink_lib.BEAM_SERVERS, "connector.jar"):
        (tmp_path / "lib" / name).touch()
    kafka = [tmp_path / "cache" / name for name in ("connector.jar", "login.jar")]
    monkeypatch.setattr(jars, "ensure_jars", lambda **_: kafka)
    monkeypatch.setattr(jars, "cache_folder", lambda: tmp_path / "cache" / "jars")
    monkeypatch.setenv("FLINK_HOME", str(tmp_path))
    return tmp_path


def test_flink_s_own_jars_those_of_kafka_and_the_changed_one_are_there_once(home):
    found = {jar.name: jar for jar in flink_lib.flink_lib().iterdir()}
    assert sorted(found) == [flink_lib.BEAM_SERVERS, "connector.jar", "flink-dist-1.jar", "login.jar"]
    assert found["connector.jar"].readlink() == home / "cache" / "connector.jar"
    assert found[flink_lib.BEAM_SERVERS].stat().st_size > 1_000


def test_it_is_made_once_and_anew_when_something_else_is_in_it(home):
    first = flink_lib.flink_lib()
    made = (first / flink_lib.BEAM_SERVERS).stat().st_mtime_ns
    assert flink_lib.flink_lib() == first
    assert (first / flink_lib.BEAM_SERVERS).stat().st_mtime_ns == made
    (home / "lib" / "more.jar").touch()
    assert flink_lib.flink_lib() != first
    assert not list((home / "cache").glob(".flink-lib-*"))
