"""The lock of the jars: what it may say, and that nothing but what it names is used."""

import hashlib
from pathlib import Path

import pytest

from flink_jobs.local import jars

COORDINATE = "org.example:thing:1.0"


def lock_for(tmp_path: Path, content: bytes) -> Path:
    lock = tmp_path / "jars.lock"
    lock.write_text(f"# comment\n{COORDINATE} {hashlib.sha256(content).hexdigest()} broker\n")
    return lock


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[str]:
    """Downloads give `content`; returns the coordinates asked for."""
    asked: list[str] = []

    def download(jar: jars.LockedJar, repository: Path, tracker: object) -> Path:
        asked.append(jar.coordinate)
        (repository / jar.filename).write_bytes(content)
        return repository / jar.filename

    monkeypatch.setattr(jars, "_download", download)
    return asked


def test_shipped_lock_holds_the_roots_and_one_version_of_kafka():
    locked = jars.read_lock()
    coordinates = {jar.coordinate for jar in locked}
    assert {root for roots in jars.ROOTS.values() for root in roots} <= coordinates
    assert [jar.jar_set for jar in locked].count("connector") == 1
    assert {jar.jar_set for jar in locked} == {*jars.ROOTS, *jars.JOBS_TOO.values()}
    kafka = {c.split(":")[2] for c in coordinates if c.startswith("org.apache.kafka:")}
    assert len(kafka) == 1, "kafka-clients of another version than the broker's would break it"
    assert "http" not in jars.LOCK_FILE.read_text()


@pytest.mark.parametrize(
    "line",
    ["a:b 00 broker", f"{COORDINATE} {'0' * 64}", f"{COORDINATE} {'0' * 63} broker", f"{COORDINATE} {'0' * 64} 7"],
)
def test_wrong_line_is_refused_with_its_number(tmp_path, line):
    lock = tmp_path / "jars.lock"
    lock.write_text(f"\n{line}\n")
    with pytest.raises(jars.JarError, match=r"jars\.lock:2: a line is"):
        jars.read_lock(lock)


def test_jar_named_twice_is_refused(tmp_path):
    lock = tmp_path / "jars.lock"
    lock.write_text(f"{COORDINATE} {'0' * 64} broker\n" * 2)
    with pytest.raises(jars.JarError, match="twice"):
        jars.read_lock(lock)


def test_missing_lock_says_how_to_make_it(tmp_path):
    with pytest.raises(jars.JarError, match="--lock"):
        jars.read_lock(tmp_path / "none")


def test_jar_is_fetched_once_and_progress_is_told(tmp_path, monkeypatch):
    asked = serve(monkeypatch, b"jar")
    lock = lock_for(tmp_path, b"jar")
    told: list[tuple[int, int, int]] = []
    for _ in range(2):
        paths = jars.ensure_jars(lambda *now: told.append(now), lock_file=lock, folder=tmp_path / "cache")
    assert [path.read_bytes() for path in paths] == [b"jar"]
    assert asked == [COORDINATE]
    assert told[-1][:2] == (1, 1)


def test_fetched_jar_with_a_wrong_digest_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    serve(monkeypatch, b"evil")
    with pytest.raises(jars.JarError, match=rf"{COORDINATE} was fetched with sha256"):
        jars.ensure_jars(lock_file=lock_for(tmp_path, b"jar"), folder=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_cached_jar_with_a_wrong_digest_is_deleted_and_named(tmp_path, monkeypatch):
    asked = serve(monkeypatch, b"jar")
    (tmp_path / "cache").mkdir()
    cached = tmp_path / "cache" / "thing-1.0.jar"
    cached.write_bytes(b"changed")
    with pytest.raises(jars.JarError, match=r"thing-1\.0\.jar is not the jar that jars\.lock names"):
        jars.ensure_jars(lock_file=lock_for(tmp_path, b"jar"), folder=tmp_path / "cache")
    assert not cached.exists()
    assert asked == []


def test_only_the_wanted_set_is_fetched(tmp_path, monkeypatch):
    asked = serve(monkeypatch, b"jar")
    lock = lock_for(tmp_path, b"jar")
    assert jars.ensure_jars(jar_sets=("connector",), lock_file=lock, folder=tmp_path / "cache") == []
    assert asked == []


def test_what_a_killed_fetch_left_is_removed_after_an_hour(tmp_path, monkeypatch):
    import os

    serve(monkeypatch, b"jar")
    old, new = tmp_path / ".fetch-old", tmp_path / ".fetch-new"
    old.mkdir()
    new.mkdir()
    os.utime(old, (0, 0))
    jars.ensure_jars(lock_file=lock_for(tmp_path, b"jar"), folder=tmp_path)
    assert not old.exists()
    assert new.exists()


def test_an_archive_has_its_classifier_and_packaging_in_its_name():
    archive = jars.LockedJar("org.example:thing:1.0:all:tar.gz", "0" * 64, "registry")
    assert archive.filename == "thing-1.0-all.tar.gz"


def test_nobody_fetches_the_registry_who_does_not_ask_for_it(tmp_path, monkeypatch):
    asked = serve(monkeypatch, b"jar")
    lock = lock_for(tmp_path, b"jar")
    lock.write_text(lock.read_text() + f"org.example:big:1.0:all:tar.gz {'0' * 64} registry\n")
    jars.ensure_jars(lock_file=lock, folder=tmp_path / "cache")
    assert asked == [COORDINATE]


def test_cache_folder_can_be_set(tmp_path, monkeypatch):
    monkeypatch.setenv("MILLRACE_CACHE", str(tmp_path))
    assert jars.cache_folder() == tmp_path / "jars"
