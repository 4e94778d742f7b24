"""Fetch what the tests of other clients run: `make interplay`; `--lock` resolves the jars again."""

import sys

from tests.benchmarks.peers import READY, python_of
from tests.interplay.files import JARS, SETS, SPARK, fetch, lock

if sys.argv[1:] == ["--lock"]:
    print("\n".join(jar.coordinate for jar in lock()))
else:
    fetch(*SETS)
    (JARS / READY).touch()
    python_of(SPARK)
