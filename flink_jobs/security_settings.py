"""How Kafka knows who we are and we know that it is Kafka: settings that name files, and never a secret itself."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]

REFERENCE = re.compile(r"\$\{(directory|env):(?:([^}:]*):)?([^}]+)\}")
"""How Kafka's clients write a value that is elsewhere: ${directory:/run/secrets:kafka-password} or ${env:NAME}."""

_SECRET_NAME = re.compile(r"password|secret|jaas|credential|user\.info|token(?!\.endpoint)|\.pem$|oauthbearer\.config")


class KafkaSecuritySettings(BaseSettings):
    """The part of the settings that says how to log in to Kafka. All are off by default: a plain, open broker."""

    kafka_properties: dict[str, str] = Field(
        default_factory=dict, description="further Kafka client properties; a secret only as a reference to its file"
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] | None = Field(
        None, description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL; default: as the settings below need it"
    )
    kafka_sasl_mechanism: SaslMechanism | None = Field(
        None, description="PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"
    )
    kafka_username: str | None = Field(None, description="user for PLAIN and SCRAM, client id for OAUTHBEARER")
    kafka_password_file: Path | None = Field(
        None, description="file with the password for PLAIN and SCRAM, or the client secret for OAUTHBEARER"
    )
    kafka_token_url: str | None = Field(None, description="OAUTHBEARER: where the identity provider gives out tokens")
    kafka_token_scope: str | None = Field(None, description="OAUTHBEARER: the scope to ask for")
    kafka_token_ca_file: Path | None = Field(
        None, description="PEM file of who may sign the identity provider's certificate; default: the system's"
    )
    kafka_token_file: Path | None = Field(
        None, description="OAUTHBEARER: file with the token itself, read again before it expires"
    )
    tls_ca_file: Path | None = Field(
        None, description="PEM file of who may sign the certificates of Kafka's and the schema registry's servers"
    )
    tls_certificate_file: Path | None = Field(None, description="PEM file of our own certificate, for mutual TLS")
    tls_key_file: Path | None = Field(None, description="PEM file (PKCS #8) of its private key")
    tls_key_password_file: Path | None = Field(None, description="file with the key's password, if it has one")

    @field_validator("kafka_username")
    @classmethod
    def _check_username(cls, value: str | None) -> str | None:
        if value is not None and re.search(r"[\"\\\s]|\$\{", value):
            raise ValueError("a quotation mark, backslash, space or ${ cannot be in it")
        return value

    @field_validator("kafka_token_url")
    @classmethod
    def _check_token_url(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s\"\\]+", value):
            raise ValueError(f"{value!r} is no address like https://login.example/token")
        return value

    @field_validator("kafka_token_scope")
    @classmethod
    def _check_scope(cls, value: str | None) -> str | None:
        if value is not None and re.search(r"[\"\\]|\$\{", value):
            raise ValueError("a quotation mark, backslash or ${ cannot be in it")
        return value

    @field_validator("kafka_properties")
    @classmethod
    def _check_properties(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if _SECRET_NAME.search(name.lower()) and not REFERENCE.search(text):
                raise ValueError(
                    f"{name} would be readable wherever the job's configuration is: name a file by "
                    f"kafka_password_file or tls_key_password_file, or refer to one, like "
                    f"${{directory:/run/secrets:{name}}}"
                )
        return value

    @model_validator(mode="after")
    def _add_security(self) -> Self:
        """Let the properties say what the settings say, so that everybody who has those can log in."""
        added = dict(_security_properties(self))
        given = {name: text for name, text in self.kafka_properties.items() if added.get(name, text) == text}
        if len(given) < len(self.kafka_properties):
            twice = sorted(set(self.kafka_properties) - set(given))[0]
            raise ValueError(f"kafka_properties: {twice} is said by a setting of its own too: leave one out")
        self.__dict__["kafka_properties"] = {**given, **added}
        return self


OPEN: dict[str, Any] = {
    "kafka_properties": {},
    **{name: None for name in KafkaSecuritySettings.model_fields if name != "kafka_properties"},
}
"""Settings of a broker of our own, which anybody on this machine may talk to."""


FILE_SETTINGS = tuple(name for name in KafkaSecuritySettings.model_fields if name.endswith("_file"))
"""Settings that name a file which every machine of a cluster must have."""


def reference(file: Path) -> str:
    """A file's content, as Kafka's clients refer to it."""
    path = file.expanduser().absolute()
    return f"${{directory:{path.parent}:{path.name}}}"


def _security_properties(given: KafkaSecuritySettings) -> Iterator[tuple[str, str]]:
    """Librdkafka's properties for the settings.

    Raises:
        ValueError: Settings that belong together are not all there.
    """
    has_sasl = given.kafka_sasl_mechanism is not None
    has_tls = given.tls_ca_file is not None or given.tls_certificate_file is not None
    protocol = given.kafka_security_protocol or (
        f"SASL_{'SSL' if has_tls else 'PLAINTEXT'}" if has_sasl else "SSL" if has_tls else None
    )
    _check_sasl(given, protocol)
    if (given.tls_certificate_file is None) != (given.tls_key_file is None):
        raise ValueError("tls_certificate_file and tls_key_file go together: set both, or none for a one-sided TLS")
    if protocol is None:
        return
    yield "security.protocol", protocol
    if has_sasl:
        yield from _sasl_properties(given)
    for name, file in (
        ("ssl.ca.location", given.tls_ca_file),
        ("ssl.certificate.location", given.tls_certificate_file),
        ("ssl.key.location", given.tls_key_file),
    ):
        if file is not None and protocol.endswith("SSL"):
            yield name, str(file.expanduser().absolute())
    if given.tls_key_password_file is not None and protocol.endswith("SSL"):
        yield "ssl.key.password", reference(given.tls_key_password_file)


def _check_sasl(given: KafkaSecuritySettings, protocol: str | None) -> None:
    mechanism = given.kafka_sasl_mechanism
    if mechanism is None:
        if protocol is not None and protocol.startswith("SASL"):
            raise ValueError(f"kafka_security_protocol is {protocol}, so kafka_sasl_mechanism must be set")
        if given.kafka_username is not None or given.kafka_password_file is not None:
            raise ValueError("kafka_username and kafka_password_file need kafka_sasl_mechanism, like SCRAM-SHA-512")
        if given.kafka_token_url is not None or given.kafka_token_file is not None:
            raise ValueError("kafka_token_url and kafka_token_file need kafka_sasl_mechanism OAUTHBEARER")
        return
    if protocol is not None and not protocol.startswith("SASL"):
        raise ValueError(f"kafka_sasl_mechanism is set, but kafka_security_protocol is {protocol}: write SASL_SSL")
    has_url, has_file = given.kafka_token_url is not None, given.kafka_token_file is not None
    if mechanism == "OAUTHBEARER" and has_url == has_file:
        raise ValueError("OAUTHBEARER needs kafka_token_url or kafka_token_file, one of them")
    if mechanism != "OAUTHBEARER" and (has_url or has_file):
        raise ValueError("kafka_token_url and kafka_token_file belong to OAUTHBEARER")
    if has_file:
        _check_token_file(given)
    elif given.kafka_username is None or given.kafka_password_file is None:
        raise ValueError(f"{mechanism} needs kafka_username and kafka_password_file")
    if given.kafka_token_ca_file is not None and not (given.kafka_token_url or "").startswith("https:"):
        raise ValueError("kafka_token_ca_file belongs to a kafka_token_url with https")
    if re.search(r"[\"\\]|\$\{", str(given.kafka_token_ca_file)):
        raise ValueError("kafka_token_ca_file: a quotation mark, backslash or ${ cannot be in its path")


def _check_token_file(given: KafkaSecuritySettings) -> None:
    if given.kafka_username is not None or given.kafka_password_file is not None:
        raise ValueError("kafka_token_file is all that is needed: leave out kafka_username and kafka_password_file")
    if re.search(r"[\s,\"\\?#%]", str(given.kafka_token_file)):
        # it is written as a URL and in a list of allowed files, and Kafka's clients take both as they are
        raise ValueError("kafka_token_file: a space, comma, quotation mark, backslash, ?, # or % cannot be in its path")


def _sasl_properties(given: KafkaSecuritySettings) -> Iterator[tuple[str, str]]:
    assert given.kafka_sasl_mechanism is not None
    yield "sasl.mechanism", given.kafka_sasl_mechanism
    if given.kafka_token_file is not None:
        yield "sasl.oauthbearer.token.endpoint.url", given.kafka_token_file.expanduser().absolute().as_uri()
        return
    assert given.kafka_username is not None
    assert given.kafka_password_file is not None
    secret = reference(given.kafka_password_file)
    if given.kafka_sasl_mechanism != "OAUTHBEARER":
        yield "sasl.username", given.kafka_username
        yield "sasl.password", secret
        return
    yield "sasl.oauthbearer.method", "oidc"
    yield "sasl.oauthbearer.client.id", given.kafka_username
    yield "sasl.oauthbearer.client.secret", secret
    yield "sasl.oauthbearer.token.endpoint.url", str(given.kafka_token_url)
    if given.kafka_token_scope is not None:
        yield "sasl.oauthbearer.scope", given.kafka_token_scope
    if given.kafka_token_ca_file is not None:
        yield "https.ca.location", str(given.kafka_token_ca_file.expanduser().absolute())
