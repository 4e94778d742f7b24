"""`make sbom`: every locked Python package, Java runtime and jar as CycloneDX 1.6, made of the lock files alone."""

import json
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flink_jobs.environment import PROJECT_ROOT
from flink_jobs.local.jars import LOCK_FILE, read_lock
from flink_jobs.local.registry_files import JAVA_LOCK

_PACKAGE = re.compile(r"([A-Za-z\d._-]+)(?:\[[^\]]*\])?==(\S+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def locked_packages(lock: Path) -> list[tuple[str, str, list[str]]]:
    """Name, version and sha256 digests of the files that may be installed, one tuple a package.

    Raises:
        ValueError: A line names a package without an exact version or without a digest.
    """
    found: list[tuple[str, str, list[str]]] = []
    entries = lock.read_text("utf-8").replace("\\\n", " ").splitlines()
    for entry in (line.split("#")[0].strip() for line in entries):
        if not entry:
            continue
        package, digests = _PACKAGE.match(entry), _HASH.findall(entry)
        if package is None or not digests:
            raise ValueError(f"{lock}: {entry.split()[0]} is not locked by version and sha256")
        found.append((package[1].lower(), package[2], digests))
    return found


def bill_of_materials(locks: Sequence[Path], jar_lock: Path, name: str, version: str) -> dict[str, Any]:
    """The document; the same locks give the same bytes.

    Args:
        locks: Of Python packages; one of two versions in them is there twice.
        jar_lock: Of jars.
        name: Of what is made of all that.
        version: Of it.
    """
    packages = [
        _component("library", package, number, f"pkg:pypi/{package}@{quote(number)}", digests)
        for lock in locks
        for package, number, digests in locked_packages(lock)
    ]
    jars = []
    for jar in read_lock(jar_lock):
        group, artifact, number, *kind = jar.coordinate.split(":")
        form = f"classifier={kind[0]}&type={kind[1]}" if kind else "type=jar"
        purl = f"pkg:maven/{group}/{artifact}@{number}?{form}"
        jars.append({**_component("library", artifact, number, purl, [jar.sha256]), "group": group})
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": name, "version": version, "bom-ref": name}},
        "components": sorted([*packages, *jars], key=lambda component: component["bom-ref"]),
    }


def _component(kind: str, name: str, version: str, purl: str, digests: list[str]) -> dict[str, Any]:
    component: dict[str, Any] = {"type": kind, "name": name, "version": version, "purl": purl, "bom-ref": purl}
    if len(digests) == 1:
        return component | {"hashes": [{"alg": "SHA-256", "content": digests[0]}]}
    # a package has a file for each platform: the digests are alternatives, not of one file
    files = [{"type": "distribution", "url": purl, "hashes": [_sha256(each)]} for each in digests]
    return component | {"externalReferences": files}


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}


def main(target: Path) -> None:
    """Write the document of this checkout."""
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    locks = PROJECT_ROOT / "requirements.lock", JAVA_LOCK
    document = bill_of_materials(locks, LOCK_FILE, project["name"], project["version"])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print(f"{len(document['components'])} components in {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
