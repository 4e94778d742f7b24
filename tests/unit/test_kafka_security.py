"""What the security settings become for librdkafka and for Flink's Java clients, and what is refused."""

import base64
import json
import stat
import time

import pytest
from certificates import Authority
from shard_driver import pipeline_of

from flink_jobs.definitions import JobDefinition
from flink_jobs.kafka_client import Admin, KafkaAdminError, client_config
from flink_jobs.kafka_security import SHADED, check_files, java_options, java_properties
from flink_jobs.local.broker_files import java_command
from flink_jobs.local.broker_listeners import LockedListeners
from flink_jobs.security_settings import OPEN
from flink_jobs.settings import Settings, SettingsError, load_settings
from udfs.pipeline import Count

SECRET = "correct-horse"
SCRAM = {"kafka_sasl_mechanism": "SCRAM-SHA-512", "kafka_username": "millrace"}


@pytest.fixture
def password(tmp_path):
    file = tmp_path / "password"
    file.write_text(SECRET)
    return file


@pytest.fixture
def settings(tmp_path, password):
    authority = Authority(tmp_path)
    mine = authority.sign("millrace")
    return load_settings(
        **SCRAM, kafka_password_file=password, tls_ca_file=authority.file, tls_certificate_file=mine.certificate,
        tls_key_file=mine.key,
    )  # fmt: skip


def test_librdkafka_is_given_the_password_and_everybody_else_its_file(settings, password):
    assert client_config("h:1", settings.kafka_properties)["sasl.password"] == SECRET
    assert SECRET not in repr(settings) + str(settings.model_dump()) + str(java_properties(settings.kafka_properties))
    assert java_properties(settings.kafka_properties)["sasl.jaas.config"] == (
        f"{SHADED}.common.security.scram.ScramLoginModule required "
        f'username="millrace" password="${{directory:{password.parent}:password}}";'
    )


def test_java_reads_only_from_the_folders_of_the_secrets(settings, tmp_path):
    java = java_properties(settings.kafka_properties)
    assert java["config.providers"] == "directory"
    assert java["config.providers.directory.param.allowed.paths"] == str(tmp_path)
    assert java["ssl.truststore.location"] == str(tmp_path / "ca.pem")
    assert java["ssl.keystore.key"] == f"${{directory:{tmp_path}:millrace.key.pem}}"
    assert "ssl.ca.location" not in java
    check_files(settings.kafka_properties)


def test_settings_survive_being_written_down_and_read_again(settings):
    assert Settings(**settings.model_dump()).kafka_properties == settings.kafka_properties


def test_a_broker_of_ones_own_is_open(settings):
    own = settings.model_copy(update=OPEN)
    assert own.kafka_properties == {}
    assert Settings(**own.model_dump()).kafka_properties == {}


def test_a_definition_does_not_say_who_we_are(settings):
    kept = JobDefinition.of(pipeline_of(Count(window="1h")), settings).settings
    assert not [name for name in kept if name.startswith(("kafka", "tls"))]


def test_oauthbearer_is_said_in_both_languages(password):
    settings = load_settings(
        kafka_sasl_mechanism="OAUTHBEARER", kafka_username="id", kafka_password_file=password,
        kafka_token_url="https://login.example/token", kafka_token_scope="kafka",
    )  # fmt: skip
    ours, java = client_config("h:1", settings.kafka_properties), java_properties(settings.kafka_properties)
    assert ours["sasl.oauthbearer.client.secret"] == SECRET
    assert 'clientId="id"' in java["sasl.jaas.config"]
    assert java["sasl.login.callback.handler.class"].endswith("OAuthBearerLoginCallbackHandler")
    assert java_options(settings.kafka_properties) == [
        f"-D{SHADED}.sasl.oauthbearer.allowed.urls=https://login.example/token"
    ]


def test_a_provider_s_certificate_is_checked_by_both_clients_with_a_file_of_its_own(tmp_path, password):
    mine, other = Authority(tmp_path / "mine"), Authority(tmp_path / "other")
    settings = load_settings(
        kafka_sasl_mechanism="OAUTHBEARER", kafka_username="id", kafka_password_file=password,
        kafka_token_url="https://login.example/token", kafka_token_ca_file=other.file, tls_ca_file=mine.file,
    )  # fmt: skip
    ours, java = client_config("h:1", settings.kafka_properties), java_properties(settings.kafka_properties)
    assert (ours["https.ca.location"], ours["ssl.ca.location"]) == (str(other.file), str(mine.file))
    assert f'ssl.truststore.location="{other.file}"' in java["sasl.jaas.config"]
    assert java["ssl.truststore.location"] == str(mine.file)
    assert "https.ca.location" not in java


def token(**claims):
    parts = [base64.urlsafe_b64encode(json.dumps(each).encode()).decode() for each in ({}, claims, 1)]
    return ".".join(each.rstrip("=") for each in parts)


def test_a_token_in_a_file_is_read_by_both_clients_themselves(tmp_path):
    file, end = tmp_path / "token", int(time.time()) + 60
    settings = load_settings(kafka_sasl_mechanism="OAUTHBEARER", kafka_token_file=file)
    file.write_text(token(exp=end) + "\n")
    ours, java = client_config("h:1", settings.kafka_properties), java_properties(settings.kafka_properties)
    assert ours["oauth_cb"]("") == (token(exp=end), end)
    assert "sasl.oauthbearer.token.endpoint.url" not in ours
    assert java["sasl.oauthbearer.token.endpoint.url"] == file.as_uri()
    assert token(exp=end) not in str(java)
    assert java_options(settings.kafka_properties) == [
        f"-D{SHADED}.sasl.oauthbearer.allowed.urls={file.as_uri()}",
        f"-D{SHADED}.sasl.oauthbearer.allowed.files={file}",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [("none", "no JSON web token"), (token(sub="me"), "no JSON web token"), (token(exp=1), "has expired")],
)
def test_a_file_without_a_good_token_is_named_and_not_shown(tmp_path, text, message):
    file = tmp_path / "token"
    file.write_text(text)
    properties = load_settings(kafka_sasl_mechanism="OAUTHBEARER", kafka_token_file=file).kafka_properties
    with pytest.raises(KafkaAdminError, match=message) as refused:
        Admin("127.0.0.1:1", properties, 1.0)
    assert text == "none" or text not in str(refused.value)
    assert str(file) in str(refused.value)


def test_files_for_a_registry_are_not_for_a_plain_kafka(tmp_path):
    given = {"tls_ca_file": tmp_path / "ca.pem", "kafka_security_protocol": "PLAINTEXT"}
    settings = load_settings(schema_registry="https://registry:8081", **given)
    assert settings.kafka_properties == {"security.protocol": "PLAINTEXT"}
    with pytest.raises(SettingsError, match="no schema_registry or cluster has https"):
        load_settings(schema_registry="http://registry:8081", **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kafka_sasl_mechanism": "OAUTHBEARER"}, "kafka_token_url or kafka_token_file, one of them"),
        ({"kafka_sasl_mechanism": "OAUTHBEARER", "kafka_token_file": "t", "kafka_username": "me"}, "leave out"),
        ({"kafka_sasl_mechanism": "OAUTHBEARER", "kafka_token_file": "a b"}, "space"),
        ({**SCRAM, "kafka_password_file": "p", "kafka_token_ca_file": "c"}, "with https"),
        ({"kafka_token_file": "t"}, "OAUTHBEARER"),
        ({"kafka_sasl_mechanism": "PLAIN"}, "PLAIN needs kafka_username and kafka_password_file"),
        ({"kafka_username": "me"}, "need kafka_sasl_mechanism"),
        ({"kafka_security_protocol": "SASL_SSL"}, "kafka_sasl_mechanism must be set"),
        ({"tls_certificate_file": "a.pem"}, "go together"),
        ({"tls_ca_file": "a.pem", "kafka_security_protocol": "PLAINTEXT"}, "protocol with SSL"),
        ({**SCRAM, "kafka_password_file": "p", "kafka_token_url": "https://x/"}, "belong to OAUTHBEARER"),
        ({**SCRAM, "kafka_username": 'me" evil="', "kafka_password_file": "p"}, "quotation mark"),
        ({"kafka_properties": {"sasl.password": SECRET}}, "name a file by kafka_password_file"),
        ({"kafka_properties": {"sasl.jaas.config": f'x password="{SECRET}";'}}, "refer to one"),
        ({"kafka_properties": {"ssl.key.pem": SECRET}}, "refer to one"),
        ({"kafka_properties": {"ssl.ca.location": "/b"}, "tls_ca_file": "/a"}, "leave one out"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_without_the_secret(given, message):
    with pytest.raises(SettingsError, match=message) as refused:
        load_settings(**given)
    assert SECRET not in str(refused.value) + str(refused.value.__cause__)


@pytest.mark.parametrize("text", ["", f"{SECRET}\n", f'{SECRET}"', f"{SECRET}\\"])
def test_a_password_that_java_would_read_differently_is_refused(password, text):
    password.write_text(text)
    properties = load_settings(**SCRAM, kafka_password_file=password).kafka_properties
    with pytest.raises(KafkaAdminError, match="must hold the secret alone") as refused:
        Admin("127.0.0.1:1", properties, 1.0)
    assert SECRET not in str(refused.value)
    assert str(password) in str(refused.value)


def test_missing_files_and_other_files_are_named(tmp_path, password):
    with pytest.raises(KafkaAdminError, match="gone cannot be read"):
        Admin("127.0.0.1:1", load_settings(tls_ca_file=tmp_path / "gone").kafka_properties, 1.0)
    with pytest.raises(KafkaAdminError, match="is no PEM file"):
        Admin("127.0.0.1:1", load_settings(tls_ca_file=password).kafka_properties, 1.0)


def test_old_kind_of_key_is_refused_with_what_to_do(tmp_path):
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n")
    authority = Authority(tmp_path)
    settings = load_settings(tls_certificate_file=authority.sign("me").certificate, tls_key_file=key)
    with pytest.raises(KafkaAdminError, match="openssl pkcs8"):
        Admin("127.0.0.1:1", settings.kafka_properties, 1.0)


def test_key_that_java_cannot_decrypt_is_refused_with_what_to_do(tmp_path, password):
    mine = Authority(tmp_path).sign("me", password=SECRET)
    settings = load_settings(
        tls_certificate_file=mine.certificate, tls_key_file=mine.key, tls_key_password_file=password
    )
    with pytest.raises(KafkaAdminError, match=r"PBES2.*openssl pkcs8"):
        Admin("127.0.0.1:1", settings.kafka_properties, 1.0)


def test_a_locked_broker_s_settings_are_readable_by_nobody_else(tmp_path, monkeypatch):
    monkeypatch.setattr("flink_jobs.local.jars.broker_classpath", list)
    pem = tmp_path / "b.pem"
    java_command(tmp_path, 1, 2, LockedListeners(3, 4, pem, pem, {"me": SECRET}, "http://127.0.0.1:5/keys", acls=True))
    file = tmp_path / "server.properties"
    lines = [line.partition("=")[0] for line in file.read_text().splitlines() if line and line[0] != "#"]
    assert sorted(lines) == sorted(set(lines))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
