"""Kafka client properties for the two kinds of clients: librdkafka's here, the Java ones inside Flink.

In: properties by librdkafka's names, whose secrets are references to files. librdkafka is given what the files say;
the Java clients are given the references, and read the files themselves, so that no secret is ever in a job graph,
in Flink's configuration, in its page or in a savepoint. The files must therefore be on every TaskManager, by the same
names.
"""

import base64
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flink_jobs.security_settings import REFERENCE, reference

SHADED = "org.apache.flink.kafka.shaded.org.apache.kafka"
"""Where Flink's connector has Kafka's classes, names of classes and of system properties in strings included."""
ALLOWED_TOKEN_URLS = f"{SHADED}.sasl.oauthbearer.allowed.urls"
"""System property without which Kafka's Java clients ask no identity provider."""
ALLOWED_TOKEN_FILES = f"{SHADED}.sasl.oauthbearer.allowed.files"
"""The same for a file with a token, whose URL must be in the other one besides."""
TOKEN_URL = "sasl.oauthbearer.token.endpoint.url"  # noqa: S105  # a property's name
MAX_SECRET_BYTES = 65_536

_LOGIN_MODULES = {
    "PLAIN": "plain.PlainLoginModule",
    "SCRAM-SHA-256": "scram.ScramLoginModule",
    "SCRAM-SHA-512": "scram.ScramLoginModule",
    "OAUTHBEARER": "oauthbearer.OAuthBearerLoginModule",
}
_PBES2 = bytes.fromhex("2a864886f70d01050d")
"""Its object identifier in DER. The JDK takes it for the name of an algorithm before Java 19 (JDK-8076999)."""
_PROVIDERS = {"directory": "DirectoryConfigProvider", "env": "EnvVarConfigProvider"}
_ONLY_LIBRDKAFKA = {
    "sasl.username", "sasl.password", "sasl.mechanisms", "ssl.ca.location", "ssl.certificate.location",
    "ssl.key.location", "sasl.oauthbearer.method", "sasl.oauthbearer.client.id", "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.scope", "https.ca.location",
}  # fmt: skip


class SecretError(ValueError):
    """A file with a secret cannot be used; the message names it and never what is in it."""


def with_secrets(properties: Mapping[str, str]) -> dict[str, str]:
    """The properties with what the references refer to, for librdkafka.

    Raises:
        SecretError: A file or variable is not there, or the Java clients would not take what it says.
    """
    return {
        name: REFERENCE.sub(lambda found, name=name: _secret(found, name), text)  # type: ignore[misc]
        for name, text in properties.items()
    }


def librdkafka_properties(properties: Mapping[str, str]) -> dict[str, Any]:
    """The properties with secrets, and with who reads a token's file: librdkafka itself knows only providers.

    Raises:
        SecretError: As of `with_secrets`.
    """
    found: dict[str, Any] = with_secrets(properties)
    file = _token_file(properties)
    if file is not None:
        del found[TOKEN_URL]
        found["oauth_cb"] = lambda _config: read_token(file)
    return found


def read_token(file: Path) -> tuple[str, float]:
    """A JSON web token, and when it ends, in seconds since 1970.

    Raises:
        SecretError: It is none, or has ended.
    """
    token = _read(file, "kafka_token_file").strip()
    try:
        claims = token.split(".")[1]
        end = float(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        raise SecretError(f"kafka_token_file: {file} holds no JSON web token with a time of its end (exp)") from None
    if end <= time.time():
        raise SecretError(f"kafka_token_file: the token in {file} has expired: write a new one there")
    return token, end


def _token_file(properties: Mapping[str, str]) -> Path | None:
    url = urlsplit(properties.get(TOKEN_URL, ""))
    return Path(url.path) if url.scheme == "file" else None


def java_properties(properties: Mapping[str, str]) -> dict[str, str]:
    """The properties as Kafka's Java clients take them, secrets still references.

    Args:
        properties: librdkafka's, or both clients' common ones, which stay as they are.
    """
    java = {name: text for name, text in properties.items() if name not in _ONLY_LIBRDKAFKA}
    mechanism = properties.get("sasl.mechanism") or properties.get("sasl.mechanisms")
    if mechanism is not None:
        java["sasl.mechanism"] = mechanism
    if mechanism in _LOGIN_MODULES and "sasl.jaas.config" not in java:
        java["sasl.jaas.config"] = _jaas(mechanism, properties)
    if mechanism == "OAUTHBEARER":
        java["sasl.login.callback.handler.class"] = (
            f"{SHADED}.common.security.oauthbearer.OAuthBearerLoginCallbackHandler"
        )
    if "ssl.ca.location" in properties:
        java["ssl.truststore.type"] = "PEM"
        java["ssl.truststore.location"] = properties["ssl.ca.location"]
    if "ssl.certificate.location" in properties and "ssl.key.location" in properties:
        java["ssl.keystore.type"] = "PEM"
        java["ssl.keystore.certificate.chain"] = reference(Path(properties["ssl.certificate.location"]))
        java["ssl.keystore.key"] = reference(Path(properties["ssl.key.location"]))
    if java.get("ssl.endpoint.identification.algorithm") == "none":
        java["ssl.endpoint.identification.algorithm"] = ""
    return java | _providers(java)


def java_system_properties(properties: Mapping[str, str]) -> dict[str, str]:
    """What a Java machine with such clients in it must be told before they log in."""
    if TOKEN_URL not in properties:
        return {}
    file = _token_file(properties)
    return {ALLOWED_TOKEN_URLS: properties[TOKEN_URL], **({ALLOWED_TOKEN_FILES: str(file)} if file else {})}


def java_options(properties: Mapping[str, str]) -> list[str]:
    """The same as options of its command line."""
    return [f"-D{name}={text}" for name, text in java_system_properties(properties).items()]


def check_files(properties: Mapping[str, str]) -> None:
    """Refuse files that one of the two kinds of clients would not take, before one of them says so less clearly.

    Raises:
        SecretError: Naming the file and what to do.
    """
    with_secrets(properties)
    file = _token_file(properties)
    if file is not None:
        read_token(file)
    for name in ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location", "https.ca.location"):
        if name in properties:
            path = Path(properties[name])
            text = _read(path, name)
            if "-----BEGIN " not in text:
                raise SecretError(f"{name}: {path} is no PEM file (it has no line -----BEGIN ...)")
            if name == "ssl.key.location":
                _check_key(path, text)


def _check_key(path: Path, text: str) -> None:
    found = re.search(r"-----BEGIN (ENCRYPTED )?PRIVATE KEY-----([^-]+)-----END", text)
    if found is None:
        raise SecretError(
            f"ssl.key.location: {path} is no PKCS #8 key, which Flink's Java clients need: "
            "`openssl pkcs8 -topk8 -nocrypt -in KEY -out NEW` makes one of it"
        )
    if found[1] and _PBES2 in base64.b64decode(found[2]):
        raise SecretError(
            f"ssl.key.location: {path} is encrypted in a way that Java 17 cannot read (PBES2): take the password off "
            "and keep the file for its owner alone (`openssl pkcs8 -topk8 -nocrypt -in KEY -out NEW`)"
        )


def _jaas(mechanism: str, properties: Mapping[str, str]) -> str:
    if mechanism == "OAUTHBEARER":
        names = {"clientId": "client.id", "clientSecret": "client.secret", "scope": "scope"}
        options = {java: properties.get(f"sasl.oauthbearer.{name}") for java, name in names.items()}
        if "https.ca.location" in properties:  # of the identity provider, not of the brokers
            options |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": properties["https.ca.location"]}
    else:
        options = {"username": properties.get("sasl.username"), "password": properties.get("sasl.password")}
    said = " ".join(f'{name}="{text}"' for name, text in options.items() if text is not None)
    return f"{SHADED}.common.security.{_LOGIN_MODULES[mechanism]} required {said};"


def _providers(java: Mapping[str, str]) -> dict[str, str]:
    """Who reads the references, and from which folders only."""
    found = [match for text in java.values() for match in REFERENCE.finditer(text)]
    kinds = sorted({match[1] for match in found})
    if not kinds:
        return {}
    package = f"{SHADED}.common.config.provider"
    classes = {f"config.providers.{kind}.class": f"{package}.{_PROVIDERS[kind]}" for kind in kinds}
    folders = sorted({match[2] for match in found if match[1] == "directory"})
    allowed = {"config.providers.directory.param.allowed.paths": ",".join(folders)} if folders else {}
    return {"config.providers": ",".join(kinds), **classes, **allowed}


def _secret(found: re.Match[str], name: str) -> str:
    kind, folder, key = found.groups()
    if kind == "env":
        if key not in os.environ:
            raise SecretError(f"{name}: the environment has no {key}")
        text, where = os.environ[key], f"${key}"
    else:
        path = Path(folder) / key
        text, where = _read(path, name), str(path)
    if not text or re.search(r"[\"\\\r\n]", text):
        # it stands between quotation marks in the Java clients' configuration
        raise SecretError(
            f"{name}: {where} must hold the secret alone: not empty, without a line break at its end "
            "(write it with `printf %s`), quotation marks or backslashes"
        )
    return text


def _read(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_SECRET_BYTES).decode("utf-8")
    except OSError as error:
        raise SecretError(f"{name}: {path} cannot be read ({os.strerror(error.errno or 0)})") from error
    except UnicodeDecodeError as error:
        raise SecretError(f"{name}: {path} is no text") from error
