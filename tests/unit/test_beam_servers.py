"""The changed class of flink-python: where it differs, and that another class is refused."""

import zipfile

import pytest

from flink_jobs.local import beam_servers
from flink_jobs.local.flink_lib import BEAM_SERVERS, flink_home, flink_python_jar
from flink_jobs.local.jars import JarError

JAR = flink_python_jar(flink_home())


def test_the_port_alone_is_no_longer_what_is_bound(tmp_path):
    beam_servers.write_jar(JAR, tmp_path / "a.jar")
    with zipfile.ZipFile(tmp_path / "a.jar") as changed, zipfile.ZipFile(JAR) as original:
        assert changed.namelist() == [beam_servers.CLASS]
        new, old = changed.read(beam_servers.CLASS), original.read(beam_servers.CLASS)
    assert (b"forPort" in old, b"forAddress" in old) == (True, False)
    assert (b"forPort" in new, b"forAddress" in new) == (False, True)
    assert new[:8] == old[:8]
    assert new[-100:] == old[-100:]


def test_the_same_jar_gives_the_same_bytes(tmp_path):
    for name in ("a.jar", "b.jar"):
        beam_servers.write_jar(JAR, tmp_path / name)
    assert (tmp_path / "a.jar").read_bytes() == (tmp_path / "b.jar").read_bytes()


def test_a_class_that_nobody_looked_at_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "flink-python-9.jar", "w") as other:
        other.writestr(beam_servers.CLASS, b"\xca\xfe\xba\xbe another")
    with pytest.raises(JarError, match=r"flink-python-9\.jar has another"):
        beam_servers.write_jar(tmp_path / "flink-python-9.jar", tmp_path / "a.jar")


def test_its_jar_comes_first_in_a_sorted_class_path():
    assert JAR.name > BEAM_SERVERS
