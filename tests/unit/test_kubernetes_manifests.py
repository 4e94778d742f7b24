"""Manifests for the operator: what is in them, what must not be, and whether the operator would take them."""

import copy
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from flink_deployment_fields import DEFINITION, OPERATOR
from typer.testing import CliRunner, Result

from flink_jobs.cli import app
from flink_jobs.console import CommandError
from flink_jobs.kubernetes_manifests import FILE_SYSTEMS, OPERATOR_NAME, Deployment, manifests
from flink_jobs.kubernetes_schema import faults
from flink_jobs.pipelines import load_pipeline
from flink_jobs.settings import Settings
from flink_jobs.topics import SQL, STREAM

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "docker" / "kubernetes"
COMMITTED = {
    "purchase-volume.yaml": ["--bootstrap", "kafka:9092"],
    "purchase-s3.yaml": [
        "--bootstrap", "kafka-1:9092,kafka-2:9092", "--checkpoints", "s3://a-bucket/millrace", "--secret", "millrace",
        "--namespace", "shop", "--parallelism", "4", "--slots", "2",
    ],
}  # fmt: skip
# the operator's own definition: `kubectl get crd flinkdeployments.flink.apache.org -o yaml`, or the file of that name
# in the crds folder of its Helm chart
REAL = Path(
    os.environ.get("MILLRACE_FLINK_CRD", ROOT.parent / f"shared/data/flink_operator/flinkdeployments-{OPERATOR}.yml")
)
needs_the_real_one = pytest.mark.skipif(not REAL.is_file(), reason="the operator's definition is not at hand")
DEPLOYMENT = Deployment("purchase", "millrace:0.1.0", "kafka:9092", STREAM)


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("MILLRACE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def deploy(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["deploy", "kubernetes", *arguments])


def made(settings: Settings | None = None, **changes: Any) -> dict[str, Any]:
    """The FlinkDeployment of the shipped pipeline."""
    return manifests(load_pipeline("purchase"), settings or Settings(), replace(DEPLOYMENT, **changes))[-1]


def container(document: dict[str, Any]) -> dict[str, Any]:
    (found,) = document["spec"]["podTemplate"]["spec"]["containers"]
    return found


def environment(document: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(document)["env"]}


@pytest.mark.parametrize("name", COMMITTED)
def test_the_committed_manifests_are_what_the_command_writes(name):
    result = deploy("purchase", *COMMITTED[name])
    assert result.exit_code == 0, result.output
    assert result.stdout == (KUBERNETES / name).read_text()


def test_there_are_no_other_manifests():
    assert {path.name for path in KUBERNETES.glob("*.yaml")} == set(COMMITTED)


@pytest.mark.parametrize("name", COMMITTED)
def test_the_operator_knows_every_field_of_the_committed_manifests(name):
    documents = list(yaml.safe_load_all((KUBERNETES / name).read_text()))
    assert "FlinkDeployment" in {document["kind"] for document in documents}
    assert faults(documents, DEFINITION) == []


@needs_the_real_one
@pytest.mark.parametrize("name", COMMITTED)
def test_the_operator_s_whole_definition_allows_the_committed_manifests(name):
    documents = list(yaml.safe_load_all((KUBERNETES / name).read_text()))
    assert faults(documents, yaml.safe_load(REAL.read_text())) == []


@needs_the_real_one
def test_the_fields_we_check_with_are_those_of_the_operator_s_definition():
    def compare(ours: dict[str, Any], theirs: dict[str, Any], place: str) -> None:
        assert ours.get("type") == theirs.get("type"), place
        assert set(ours.get("enum", [])) <= set(theirs.get("enum", [])), place
        for name, field in ours.get("properties", {}).items():
            compare(field, theirs["properties"][name], f"{place}.{name}")
        if "items" in ours:
            compare(ours["items"], theirs["items"], f"{place}[]")

    schemas = [
        each["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for each in (DEFINITION, yaml.safe_load(REAL.read_text()))
    ]
    compare(schemas[0], schemas[1], "")


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (["spec", "job", "upgradeMode"], "save-point", "'save-point' is not one of"),
        (["spec", "job", "paralellism"], 2, "'paralellism' was unexpected"),
        (["spec", "job", "parallelism"], "2", "'2' is not of type 'integer'"),
        (["spec", "flinkVersion"], "v2.2", "'v2.2' is not one of"),
        (["spec", "taskManager", "resource", "cpu"], "1", "'1' is not of type 'number'"),
        (["spec", "podTemplate", "spec", "securityContext", "runAsUser"], "flink", "'flink' is not of type 'integer'"),
        (["spec", "podTemplate", "spec", "containers", 0, "volumeMount"], [], "'volumeMount' was unexpected"),
        (["apiVersion"], "flink.apache.org/v1", "flink.apache.org/v1 is none of"),
    ],
)
def test_a_wrong_field_is_named(path, value, told):
    document = copy.deepcopy(made())
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    (fault,) = faults([document], DEFINITION)
    assert told in fault


def test_free_form_fields_may_hold_anything():
    document = made()
    document["spec"]["flinkConfiguration"]["a.b"] = "c"
    assert faults([document], DEFINITION) == []


def test_the_job_is_upgraded_through_savepoints_and_survives_its_jobmanager():
    spec = made()["spec"]
    flink = spec["flinkConfiguration"]
    assert spec["job"]["upgradeMode"] == "savepoint"
    assert spec["mode"] == "native"
    assert flink["high-availability.type"] == "kubernetes"
    places = [
        flink[key]
        for key in (
            "execution.checkpointing.dir", "execution.checkpointing.savepoint-dir", "high-availability.storageDir",
        )
    ]  # fmt: skip
    assert all(place.startswith("file:///var/lib/millrace/millrace-purchase/") for place in places)
    assert len(set(places)) == len(places)


def test_the_operator_s_own_rules_hold():
    # from its DefaultValidator: keys that it sets itself, and the form of names
    document = made()
    forbidden = {"kubernetes.namespace", "kubernetes.cluster-id", "high-availability.cluster-id"}
    assert not forbidden & set(document["spec"]["flinkConfiguration"])
    assert all(isinstance(value, str) for value in document["spec"]["flinkConfiguration"].values())
    assert OPERATOR_NAME.fullmatch(document["metadata"]["name"])
    long = replace(load_pipeline("purchase"), name="p" * 60)
    with pytest.raises(CommandError, match="at most 45"):
        manifests(long, Settings(), DEPLOYMENT)


def test_pods_run_as_nobody_special():
    pod = made()["spec"]["podTemplate"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 9999
    context = pod["containers"][0]["securityContext"]
    assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize("slots", [1, 2, 4, 16])
def test_each_slot_has_heap_and_its_python_worker_memory_beside_the_jvm(slots):
    spec = made(slots=slots)["spec"]
    flink = spec["flinkConfiguration"]
    process_mb = megabytes(spec["taskManager"]["resource"]["memory"])
    python_mb = megabytes(flink["taskmanager.memory.task.off-heap.size"])
    assert python_mb >= slots * 300
    # Flink's defaults: overhead 10 % of all (192 MB to 1 GB), metaspace 256 MB; of the rest 10 % for the network, and
    # 256 MB for the framework
    flink_mb = process_mb - min(1_024, max(192, process_mb / 10)) - 256
    heap_mb = flink_mb * 0.9 - 256 - python_mb - megabytes(flink["taskmanager.memory.managed.size"])
    assert heap_mb / slots > 256


def megabytes(text: str) -> int:
    assert text.endswith("m")
    return int(text[:-1])


def test_settings_that_somebody_chose_go_into_the_pods_and_those_of_this_machine_do_not(tmp_path):
    here: dict[str, Any] = {"home": tmp_path, "cluster": "http://127.0.0.1:8081", "worker_python": "/usr/bin/python3"}
    settings = Settings(batch_ms=50, guarantee="at-least-once", parallelism=3, state_backend="hashmap", **here)
    document = made(settings)
    assert environment(document) == {
        "MILLRACE_BOOTSTRAP": "kafka:9092",
        "MILLRACE_BATCH_MS": "50",
        "MILLRACE_GUARANTEE": "at-least-once",
        "MILLRACE_STATE_BACKEND": "hashmap",
    }
    assert document["spec"]["job"]["parallelism"] == 3


def test_the_settings_in_the_pods_mean_what_they_meant_here(monkeypatch):
    here = Settings(batch_ms=50, guarantee="at-least-once", restart_attempts=0, shards=64)
    for name, value in environment(made(here)).items():
        monkeypatch.setenv(name, value)
    there = Settings()
    assert there.model_dump(exclude={"bootstrap"}) == here.model_dump(exclude={"bootstrap"})


def test_kafka_s_properties_are_never_written_down(monkeypatch):
    monkeypatch.setenv("MILLRACE_KAFKA_PROPERTIES", '{"sasl.jaas.config": "${env:hunter2}"}')
    refused = deploy("purchase", "--bootstrap", "kafka:9092")
    assert refused.exit_code == 1
    assert "--secret" in refused.stderr
    by_reference = deploy("purchase", "--bootstrap", "kafka:9092", "--secret", "kafka-login")
    assert by_reference.exit_code == 0
    assert "hunter2" not in refused.output + by_reference.output
    (_, document) = yaml.safe_load_all(by_reference.stdout)
    assert container(document)["envFrom"] == [{"secretRef": {"name": "kafka-login"}}]


def test_a_broker_on_this_machine_is_refused_for_a_pod_would_look_for_it_in_itself():
    for arguments in ([], ["--bootstrap", "kafka:9092,localhost:9092"]):
        result = deploy("purchase", *arguments)
        assert result.exit_code == 1
        assert "--bootstrap" in result.stderr


def test_checkpoints_elsewhere_need_no_volume_but_their_plugin():
    documents = manifests(
        load_pipeline("purchase"), Settings(), replace(DEPLOYMENT, checkpoints="s3://bucket/folder/")
    )
    (document,) = documents
    assert environment(document)["ENABLE_BUILT_IN_PLUGINS"] == "flink-s3-fs-presto-2.2.1.jar"
    folder = document["spec"]["flinkConfiguration"]["execution.checkpointing.dir"]
    assert folder == "s3://bucket/folder/millrace-purchase/checkpoints"
    assert "volumes" not in document["spec"]["podTemplate"]["spec"]
    assert faults(documents, DEFINITION) == []


@pytest.mark.parametrize("uri", ["ftp://host/folder", "/var/folder", "bucket"])
def test_checkpoints_that_no_plugin_reads_are_refused(uri):
    with pytest.raises(CommandError, match=re.escape(repr(uri))) as refused:
        made(checkpoints=uri)
    assert all(f"{scheme}://" in str(refused.value) for scheme in FILE_SYSTEMS)


def test_the_claim_can_be_shared_and_is_the_one_that_is_mounted():
    claim, document = manifests(
        load_pipeline("purchase"), Settings(), replace(DEPLOYMENT, storage="3Gi", storage_class="nfs", namespace="shop")
    )
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["spec"]["storageClassName"] == "nfs"
    assert claim["spec"]["resources"]["requests"]["storage"] == "3Gi"
    assert claim["metadata"]["namespace"] == document["metadata"]["namespace"] == "shop"
    (volume,) = document["spec"]["podTemplate"]["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_each_engine_has_a_cluster_of_its_own():
    sql = made(engine=SQL)
    assert sql["metadata"]["name"] == "millrace-purchase-sql"
    assert sql["spec"]["job"]["args"] == ["-pym", "flink_jobs.application", "purchase", "--engine", "sql"]


def test_a_pipeline_of_one_s_own_needs_an_image_with_it(tmp_path):
    shipped = (ROOT / "flink_jobs/pipelines/purchase.py").read_text()
    models = ROOT / "models"
    (tmp_path / "mine.py").write_text(shipped.replace("version=2)", f'version=2, root="{models}")'))
    refused = deploy("mine.py", "--bootstrap", "kafka:9092")
    assert refused.exit_code == 1
    assert "--image" in refused.stderr
    made_of_it = deploy("mine.py", "--bootstrap", "kafka:9092", "--image", "shop/mine:7")
    assert made_of_it.exit_code == 0, made_of_it.output
    (_, document) = yaml.safe_load_all(made_of_it.stdout)
    assert document["spec"]["image"] == "shop/mine:7"
    assert document["spec"]["job"]["args"][-1] == "/opt/millrace/pipelines/mine.py"


def test_a_schema_that_does_not_allow_it_ends_the_command(tmp_path):
    schema = copy.deepcopy(DEFINITION)
    spec = schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["flinkVersion"]["enum"] = ["v1_20"]
    (tmp_path / "crd.yml").write_text(yaml.safe_dump(schema))
    target = tmp_path / "out.yaml"
    result = deploy("purchase", "--bootstrap", "kafka:9092", "--schema", "crd.yml", "--to", str(target))
    assert result.exit_code == 1
    assert "spec.flinkVersion: 'v2_2' is not one of ['v1_20']" in result.stderr
    assert not target.exists()
