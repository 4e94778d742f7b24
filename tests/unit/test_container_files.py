"""docker/Dockerfile and docker/compose.yaml: what can go wrong in them without anybody noticing."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from flink_jobs.flink_logs import QUIET, write_log_configuration
from flink_jobs.local.flink_lib import BEAM_SERVERS

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text().replace("${MILLRACE_FLINK_OPTIONS:-}", ""))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
FLINK = ("jobmanager", "taskmanager")
LONG_LIVED = (*FLINK, "kafka", "zookeeper")
MB = {"m": 1, "g": 1_024}


def instructions(name: str = "Dockerfile") -> list[tuple[str, str]]:
    """(INSTRUCTION, arguments) of the file, continued lines joined, comments left out."""
    lines = [line for line in (DOCKER / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split()[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for instruction, arguments in instructions():
        if instruction == "FROM":
            current = found.setdefault(arguments.split(" AS ")[1], [])
        current.append((instruction, arguments))
    return found


def locked(path: Path) -> dict[str, frozenset[str]]:
    """Requirement -> hashes."""
    entries = re.split(r"\n(?! )", path.read_text().strip())
    lines = [[line.strip(" \\") for line in entry.splitlines()] for entry in entries]
    return {requirement: frozenset(hashes) for requirement, *hashes in lines}


def megabytes(text: str) -> int:
    return int(text[:-1]) * MB[text[-1]]


def flink_options(service: str) -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load(SERVICES[service]["environment"]["FLINK_PROPERTIES"])
    return found


def test_the_options_for_https_are_flink_s_and_the_services_that_ask_it_have_the_files():
    options = yaml.safe_load((DOCKER / "flink-tls.properties").read_text())
    assert {name.rpartition(".")[0] for name in options} == {"security.ssl.rest"}
    assert options["security.ssl.rest.authentication-enabled"] is True
    tls = yaml.safe_load((DOCKER / "compose.tls.yaml").read_text())["services"]
    assert set(tls) <= set(SERVICES)
    folders = {each.rpartition(":/")[2].partition(":")[0] for part in tls.values() for each in part["volumes"]}
    assert folders == {"run/tls"}
    named = [value for name, value in options.items() if name.endswith("store")]
    assert all(str(each).startswith("/run/tls/") for each in named)


def test_every_base_is_flink_s_image_of_the_version_that_python_has():
    (pin,) = (each for each in PROJECT["dependencies"] if each.startswith("apache-flink=="))
    bases = {arguments.split(" AS ")[0] for instruction, arguments in instructions() if instruction == "FROM"}
    assert bases - set(stages()) == {f"flink:{pin.split('==')[1]}-java17"}


@pytest.mark.parametrize("target", ["millrace", "kafka"])
def test_what_runs_is_not_root(target):
    users = [arguments for instruction, arguments in stages()[target] if instruction == "USER"]
    assert users[-1] == "flink"


def test_millrace_is_what_a_build_without_target_makes():
    assert list(stages())[-1] == "millrace"


def test_python_packages_are_installed_by_hash_only():
    commands = [part for _, arguments in instructions() for part in arguments.split("&&") if "pip install" in part]
    assert len(commands) == 3
    for command in commands:
        assert "--no-deps" in command
        assert "--require-hashes" in command or "--no-index" in command


def test_the_image_s_lock_is_the_part_of_the_lock_that_runs():
    ours, all_of_it = locked(DOCKER / "requirements.lock"), locked(ROOT / "requirements.lock")
    assert all(hashes for hashes in ours.values())
    assert ours.items() <= all_of_it.items()
    names = {requirement.split("==")[0] for requirement in ours}
    needed = {re.split(r"[=<>]", each)[0] for each in PROJECT["dependencies"]}
    assert needed <= names
    assert not {"pytest", "mypy", "ruff", "hypothesis"} & names
    assert "apache-flink-libraries" not in names, "its jars are in Flink's image already"


def test_the_lock_says_nothing_of_where_packages_come_from():
    assert not re.search(r"https?://|index-url|find-links", (DOCKER / "requirements.lock").read_text())


def test_copied_files_are_there():
    for instruction, arguments in instructions():
        if instruction == "COPY" and not arguments.startswith("--from="):
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists(), source


def test_the_files_need_no_newer_builder_than_distributions_have():
    text = (DOCKER / "Dockerfile").read_text()
    assert "# syntax" not in text
    assert "<<" not in text
    assert "name" not in COMPOSE


def test_images_are_tagged_with_the_version_of_the_project():
    tags = re.findall(r"millrace(?:-kafka)?:(\S+)", (DOCKER / "Dockerfile").read_text())
    images = {service["image"] for service in SERVICES.values()}
    assert images == {f"millrace:{PROJECT['version']}", f"millrace-kafka:{PROJECT['version']}"}
    assert set(tags) == {PROJECT["version"]}


def test_ports_are_published_on_loopback_only():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_container_may_more_than_it_needs():
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "user", "network_mode", "pid", "devices"} & set(service), name
        assert all(not str(volume).startswith(("/", ".")) for volume in service.get("volumes", [])), name


def test_what_lives_long_comes_back_has_a_bound_of_memory_and_says_how_it_is():
    for name in LONG_LIVED:
        assert SERVICES[name]["restart"] == "unless-stopped", name
        assert "mem_limit" in SERVICES[name], name
        assert "healthcheck" in SERVICES[name], name


def test_nobody_waits_for_the_health_of_a_service_that_does_not_tell_it():
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            condition = how["condition"]
            if condition == "service_healthy":
                assert "healthcheck" in SERVICES[other], (name, other)
            else:
                assert condition == "service_completed_successfully", (name, other)
                assert other not in LONG_LIVED, (name, other)


@pytest.mark.parametrize("service", FLINK)
def test_flink_fits_into_its_container(service):
    size = flink_options(service)[f"{service}.memory.process.size"]
    assert megabytes(size) < megabytes(SERVICES[service]["mem_limit"])


def test_a_lost_jobmanager_finds_its_job_again():
    options = flink_options("jobmanager")
    assert options == flink_options("taskmanager")
    assert options["high-availability.type"] == "zookeeper"
    assert options["high-availability.zookeeper.quorum"] == "zookeeper:2181"
    (state,) = SERVICES["jobmanager"]["volumes"]
    volume, mount = state.split(":")
    assert volume in COMPOSE["volumes"]
    assert options["high-availability.storageDir"].startswith(f"file://{mount}/")


def test_all_of_flink_sees_the_same_checkpoints():
    # the submit step makes the folder and looks for checkpoints to go on from
    volumes = [SERVICES[name]["volumes"] for name in (*FLINK, "submit")]
    assert volumes[0] == volumes[1] == volumes[2]
    mount = volumes[0][0].split(":")[1]
    assert ("ENV", f"MILLRACE_HOME={mount}") in stages()["millrace"]


def test_nobody_can_upload_code_through_flink_s_web_page():
    (command,) = (arguments for _, arguments in stages()["millrace"] if "config-parser-utils.sh" in arguments)
    assert "-D web.submit.enable=false" in command
    assert "web.submit.enable" not in flink_options("jobmanager")


def test_workers_servers_come_before_flink_python_in_the_class_path():
    (command,) = (arguments for _, arguments in stages()["millrace"] if "flink_jobs.local.flink_lib" in arguments)
    assert f"/{BEAM_SERVERS}\" /opt/flink/lib/" in command


def test_flink_logs_as_quietly_as_elsewhere(tmp_path):
    (command,) = (arguments for _, arguments in stages()["millrace"] if "log4j-console.properties" in arguments)
    settings = [line for line in QUIET.splitlines() if line and not line.startswith("#")]
    assert settings
    assert all(f"'{line}'" in command for line in settings)
    shipped = tmp_path / "log4j-console.properties"
    shipped.write_text("rootLogger.level = INFO")
    (tmp_path / "own").mkdir()
    assert write_log_configuration(shipped, tmp_path / "own").read_text("utf-8") == f"rootLogger.level = INFO{QUIET}"
