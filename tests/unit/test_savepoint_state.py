"""Reading a restore point: what is refused before Flink is asked, and the bytes an entry must have."""

import struct

import pytest

from flink_jobs import savepoint_state
from flink_jobs.restore_points import RestorePointError, folder_of, found_folder


def entry(shard=7, number=3, content=b"MRST...", *, octets=8, nulls=0):
    key = struct.pack(">BBiBiq", 5, nulls, shard, 0, octets, number)
    value = struct.pack(">?ii", False, len(content) + 4, len(content)) + content
    return key, value


def test_a_restore_point_is_given_as_a_uri_or_a_path_or_by_its_metadata(tmp_path):
    folder = tmp_path / "save point"
    for given in (folder.as_uri(), str(folder), str(folder / "_metadata")):
        assert folder_of(given) == folder


def test_what_is_not_there_not_complete_or_elsewhere_is_said_in_one_line(tmp_path):
    with pytest.raises(RestorePointError, match="does not exist"):
        found_folder(str(tmp_path / "none"))
    with pytest.raises(RestorePointError, match="has no _metadata"):
        found_folder(tmp_path.as_uri())
    with pytest.raises(RestorePointError, match="s3://bucket/sp is not on this machine"):
        found_folder("s3://bucket/sp")


def test_an_entry_gives_its_shard_its_number_and_the_bytes_that_python_wrote(tmp_path):
    logs = {}
    savepoint_state._put(logs, *entry(7, 3, b"three"), tmp_path)
    savepoint_state._put(logs, *entry(7, 4, b"four"), tmp_path)
    savepoint_state._put(logs, *entry(-2, 2**40, b""), tmp_path)
    assert logs == {7: [(3, b"three"), (4, b"four")], -2: [(2**40, b"")]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (entry()[0][:-1], entry()[1]),
        (entry(nulls=1)[0], entry()[1]),
        (entry(octets=4)[0], entry()[1]),
        (entry()[0], entry()[1][:-1]),
        (entry()[0], b"\x01"),
        (entry()[0], b"\x01" + entry()[1][1:]),
    ],
)
def test_an_entry_of_other_bytes_is_refused_and_not_misread(tmp_path, key, value):
    with pytest.raises(RestorePointError, match="bytes that Millrace does not write"):
        savepoint_state._put({}, key, value, tmp_path)
