"""Every setting with its default, once. Set by environment (`MILLRACE_PARALLELISM=2`) or `millrace.toml`."""

import os
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from flink_jobs.security_settings import KafkaSecuritySettings

SETTINGS_FILE = "millrace.toml"
ENVIRONMENT_PREFIX = "MILLRACE_"


class SettingsError(ValueError):
    """A setting that cannot be used; the message names it."""


def _checkpoint_interval_ms(given: dict[str, Any]) -> int:
    """Exactly-once outputs are seen with the next checkpoint; at-least-once ones need none, and each holds them up."""
    return 1_000 if given.get("guarantee") == "exactly-once" else 10_000


class Settings(KafkaSecuritySettings):
    """How jobs are run. What is computed is said by the pipeline, not here."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, toml_file=SETTINGS_FILE, extra="forbid", frozen=True, validate_default=True,
        hide_input_in_errors=True,  # what is refused may be a secret
    )

    bootstrap: str = Field("127.0.0.1:9092", description="Kafka bootstrap servers")
    schema_registry: str | None = Field(
        None,
        description="URL of a Confluent-compatible schema registry, several separated by commas; default: the home's "
        "local registry if it runs",
    )
    schema_registry_username: str | None = Field(None, description="user of the schema registry (basic authentication)")
    schema_registry_password_file: Path | None = Field(
        None, description="file with that user's password; where jobs run, it must be there on every worker"
    )
    home: Path = Field(Path(".millrace"), description="folder of the local broker, checkpoints, savepoints and logs")
    checkpoint_folder: Path | None = Field(None, description="where checkpoints go; default: <home>/checkpoints")
    cluster: str | None = Field(
        None, description="REST address of the Flink cluster, like http://host:8081; default: the home's local cluster"
    )
    worker_python: str | None = Field(
        None, description="Python of a cluster's workers; default: this one on the local cluster, python3 elsewhere"
    )
    parallelism: int = Field(2, ge=1, le=128, description="subtasks of every operator")
    shards: int = Field(
        32, ge=1, le=128, description="groups entities are split into; a savepoint keeps its number for ever"
    )
    batch_ms: int = Field(
        20, ge=1, le=10_000, description="how long the JVM gathers records into a batch; ten times as long in a backlog"
    )
    bundle_ms: int = Field(3, ge=1, le=10_000, description="longest a batch waits on its way into Python")
    bundle_size: int = Field(64, ge=1, description="most batches that go into Python together")
    guarantee: Literal["exactly-once", "at-least-once"] = Field(
        "exactly-once", description="exactly-once: visible with the next checkpoint; at-least-once: visible at once"
    )
    checkpoint_interval_ms: int = Field(
        default_factory=_checkpoint_interval_ms,
        ge=50,
        description="time between checkpoints; default: 1,000 for exactly-once, 10,000 for at-least-once",
    )
    checkpoint_timeout_ms: int = Field(60_000, ge=1_000, description="a checkpoint that takes longer is given up")
    transaction_timeout_ms: int = Field(
        600_000, ge=10_000, description="Kafka aborts a transaction older than this; above any outage to survive"
    )
    state_backend: Literal["rocksdb", "hashmap"] = Field("rocksdb", description="where Flink keeps the state")
    watermark_ms: int = Field(
        5_000, ge=0, le=86_400_000, description="engine sql: how far events may be out of order; it waits so long"
    )
    idle_ms: int = Field(
        15_000,
        ge=100,
        description="engine sql: a partition without events for so long no longer holds up the others; its next events "
        "may be late, so longer than a start of the workers takes",
    )
    dead_letter_limit_share: float = Field(
        0.9,
        gt=0,
        le=1,
        description="engine stream: the job ends when more than this share of a subtask's last "
        "dead_letter_limit_records records are dead letters; 1 is never",
    )
    dead_letter_limit_records: int = Field(
        10_000, ge=100, le=10_000_000, description="engine stream: how many records that share is taken of"
    )
    onnx_providers: Literal["cpu", "auto", "cuda"] = Field(
        "cpu", description="cpu; auto: CUDA where onnxruntime-gpu is and has it, else the CPU; cuda: nothing else"
    )
    models_root: str | None = Field(
        None,
        description="where a running job looks for models that it is told to change to: a folder or an fsspec URL that "
        "every worker can read; default: the pipeline's own root",
    )
    model_batch_limit_ms: float = Field(
        1_000,
        gt=0,
        description="a model that takes longer for 256 rows is refused when a running job is told to change to it",
    )
    restart_attempts: int = Field(
        20, ge=0, description="failures within a minute of each other after which the job gives up"
    )
    restart_delay_ms: int = Field(1_000, ge=0, description="wait before the first restart; grows to 5,000")

    @model_validator(mode="after")
    def _check_tls_is_used(self) -> Self:
        """Files that nobody would look at are a mistake: without SSL, Kafka does not."""
        protocol, urls = self.kafka_security_protocol, f"{self.schema_registry} {self.cluster}"
        has_tls = self.tls_ca_file is not None or self.tls_certificate_file is not None
        if has_tls and protocol in ("PLAINTEXT", "SASL_PLAINTEXT") and "https:" not in urls:
            raise ValueError(
                f"kafka_security_protocol is {protocol} and no schema_registry or cluster has https, but TLS files are "
                "set: write the protocol with SSL"
            )
        return self

    @field_validator("bootstrap")
    @classmethod
    def _check_bootstrap(cls, value: str) -> str:
        for server in value.split(","):
            host, _, port = server.strip().rpartition(":")
            if not host or not port.isdigit():
                raise ValueError(f"{server!r} is no host:port")
        return value

    @field_validator("schema_registry")
    @classmethod
    def _check_schema_registry(cls, value: str | None) -> str | None:
        for url in [] if value is None else value.split(","):
            parts = urlsplit(url.strip())
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("it is no URL like http://host:8081")
            if parts.username or parts.password:
                raise ValueError(
                    "it holds a user or a password: write them to schema_registry_username and, in a file, to "
                    "schema_registry_password_file"
                )
        return value

    @field_validator("cluster")
    @classmethod
    def _check_cluster(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError(f"{value!r} is no address like http://host:8081")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, and that over the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def checkpoints(self) -> Path:
        """Folder of all checkpoints and savepoints."""
        return (self.checkpoint_folder or self.home / "checkpoints").absolute()

    @property
    def logs(self) -> Path:
        """Folder of all logs."""
        return (self.home / "logs").absolute()


def load_settings(**overrides: object) -> Settings:
    """The settings, with what the command line says on top; None leaves a setting as it is.

    Raises:
        SettingsError: If one is unknown or out of range; names it and where it can be set.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        settings = Settings(**given)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        first = error.errors()[0]
        text = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # settings that do not go together
            raise SettingsError(f"settings: {text}") from error
        name = str(first["loc"][0])
        raise SettingsError(
            f"setting {name}: {text} (set by {ENVIRONMENT_PREFIX}{name.upper()} or {SETTINGS_FILE})"
        ) from error
    if "onnx_providers" in settings.model_fields_set:
        # models are opened in many places, also by processes that this one starts
        os.environ[ENVIRONMENT_PREFIX + "ONNX_PROVIDERS"] = settings.onnx_providers
    return settings
