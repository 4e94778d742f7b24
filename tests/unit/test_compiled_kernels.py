"""Compiled kernels are found again by what they hold, wherever the code lies."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from udfs.compiled import _may_use

ROOT = Path(__file__).parents[2]
RUN = "import udfs.kernels as k; print(k.write_events._cache.cache_path, k.advance_batch._cache.cache_path)"


def folders_of(code, cache):
    environment = {**os.environ, "PYTHONPATH": str(code), "MILLRACE_CACHE": str(cache)}
    ran = subprocess.run([sys.executable, "-c", RUN], env=environment, cwd=code, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def test_the_same_code_in_another_folder_has_the_same_kernels_and_changed_code_has_not(tmp_path):
    code, cache = tmp_path / "code", tmp_path / "cache"
    shutil.copytree(ROOT / "udfs", code / "udfs", ignore=shutil.ignore_patterns("__pycache__"))
    first = folders_of(ROOT, cache)
    assert folders_of(code, cache) == first
    assert all(Path(each).parent == cache / "kernels" for each in first)
    slabs = code / "udfs" / "kernels.py"
    text = slabs.read_text()
    assert "_SWEPT_AN_EVENT = 2\n" in text
    slabs.write_text(text.replace("_SWEPT_AN_EVENT = 2\n", "_SWEPT_AN_EVENT = 3\n"))
    changed = folders_of(code, cache)
    assert changed[0] == first[0]
    assert changed[1] != first[1]


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path):
    open_to_all = tmp_path / "kernels"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    assert not _may_use(open_to_all / "one")
    open_to_all.chmod(0o755)
    assert _may_use(open_to_all / "one")


def test_a_folder_that_cannot_be_made_is_not_used(tmp_path):
    (tmp_path / "file").write_text("")
    assert not _may_use(tmp_path / "file" / "kernels")
