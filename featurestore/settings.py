"""Settings: one frozen object, read once at start from `featurestore.toml` and the environment.

`FEATURESTORE_REDIS_URL` wins over `redis_url` in the file, which wins over the default.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from featurestore.errors import SettingError
from featurestore.urls import redis_fault, shown_url

_PREFIX = "FEATURESTORE_"
_FILE, _NAMED_BY = "featurestore.toml", f"{_PREFIX}CONFIG"


class Settings(BaseSettings):
    """Where everything is."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=_PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    project: str = Field("featurestore", pattern=r"^[a-z][a-z0-9_-]{0,40}$", description="name of this store")
    definitions: Path = Field(Path("definitions"), description="folder of definition files")
    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Kafka brokers, host:port, comma-separated")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how to talk to the brokers: SSL is TLS, SASL is with a login"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="kind of login"
    )
    kafka_sasl_username: str = Field("", description="who logs in to Kafka")
    kafka_sasl_password: SecretStr = Field(SecretStr(""), description="password for Kafka, better from the environment")
    kafka_sasl_password_file: Path | None = Field(None, description="file with that password, instead of it")
    kafka_ssl_ca: Path | None = Field(None, description="certificates that sign the brokers'; none: the system's own")
    kafka_ssl_certificate: Path | None = Field(None, description="our certificate, where brokers want one")
    kafka_ssl_key: Path | None = Field(None, description="its private key")
    kafka_ssl_key_password: SecretStr = Field(SecretStr(""), description="password of that key")
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", description="online store, one for all workers; redis+cluster:// for a cluster"
    )
    buckets: int = Field(64, ge=1, le=16_384, description="buckets of the online store; written into it, then fixed")
    offline_path: Path = Field(
        Path(".local/offline"), description="folder of the event logs, one for all workers of a project"
    )
    training_path: Path = Field(Path(".local/training"), description="folder of training sets and models")
    registry_url: str = Field("sqlite:///.local/registry.db", description="Feast's SQL registry, any SQLAlchemy URL")
    schema_registry: str = Field(
        "", description="Schema Registry of Avro and Protobuf topics: a URL, or a folder; empty: beside the event logs"
    )
    http_host: str = Field("127.0.0.1", description="address that the HTTP server binds to")
    http_port: int = Field(8080, ge=0, le=65_535, description="port of the HTTP server; 0: any free one")
    worker_id: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]{0,80}$", description="lasting name of a worker: restarted, it reads on at once"
    )
    worker_port: int = Field(
        0,
        ge=0,
        le=65_535,
        description="loopback port of a worker's /metrics and /health; 0: any free one, told in its log",
    )
    batch_records_max: int = Field(
        100_000, ge=1, le=1_000_000, description="records of a partition that a worker takes at once"
    )
    batch_bytes_max: int = Field(
        16 << 20,
        ge=1_024,
        le=1 << 30,
        description="bytes of them at most, so that large records do not fill the memory",
    )
    worker_ahead_bytes_max: int = Field(15 << 20, ge=1_024, le=1 << 34, description="bytes that a worker reads ahead")
    worker_rebalance: Literal["eager", "cooperative"] = Field(
        "eager",
        description="when workers come or go: all partitions change hands, in one round, or only those that must, in "
        "two; the same for all workers",
    )
    worker_session_s: float = Field(
        10.0, ge=1.0, le=1_800.0, description="a dead worker's partitions go to others after this long"
    )
    worker_drain_s: float = Field(
        8.0,
        gt=0.0,
        le=300.0,
        description="how long a worker that stops or gives partitions up waits for the batch at work; then it ends "
        "with code 70. A stop is over 2 s after that, whoever does not answer",
    )
    worker_stall_s: float = Field(
        120.0,
        ge=1.0,
        le=86_400.0,
        description="a worker that has records and finishes none, or gets none of a partition that has more, for this "
        "long ends with code 71",
    )
    log_format: Literal["text", "json"] = Field("text", description="how a worker logs: for people, or JSON lines")

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: str) -> str:
        if (fault := redis_fault(url)) is not None:
            raise ValueError(fault)
        return url

    @model_validator(mode="after")
    def _login_is_whole(self) -> Settings:
        if self.kafka_security_protocol.startswith("SASL_") and not self.kafka_sasl_username:
            raise ValueError(
                f"kafka_security_protocol={self.kafka_security_protocol} needs kafka_sasl_username, and "
                "kafka_sasl_password or kafka_sasl_password_file"
            )
        return self

    def sasl_password(self) -> str:
        """The password for Kafka, from the file where one is named."""
        if self.kafka_sasl_password_file is None:
            return self.kafka_sasl_password.get_secret_value()
        try:
            return self.kafka_sasl_password_file.read_text().rstrip("\n")
        except OSError as error:
            raise SettingError("kafka_sasl_password_file", f"cannot be read: {error}") from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        named = os.environ.get(_NAMED_BY)
        file = Path(named or _FILE)
        # Pydantic passes over what is no file, and the defaults would be used in silence.
        if not file.is_file() and (named or file.exists()):
            is_what = "is no file" if file.exists() else "does not exist"
            said = f"{file.absolute()} {is_what}"
            raise SettingError(_NAMED_BY, f"names a file that cannot be: {said}" if named else f"is unset, and {said}")
        try:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=file)
        except (OSError, ValueError) as error:
            raise SettingError(_NAMED_BY, f"names {file.absolute()}, which cannot be read: {error}") from error

    @property
    def schema_address(self) -> str:
        """Where schemas are kept: a URL or a folder."""
        return self.schema_registry or str(self.offline_path.parent / "schemas")

    def shown(self) -> list[tuple[str, str, str]]:
        """Name, value without secrets, and meaning of every setting."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return [
            (name, "" if value is None else shown_url(str(value)), type(self).model_fields[name].description or "")
            for name, value in values.items()
        ]

    def environment(self) -> dict[str, str]:
        """The variables that give another process these very settings, with secrets in the clear."""
        said = {}
        for name, value in self.model_dump().items():
            if value is not None:
                plain = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
                said[f"{_PREFIX}{name.upper()}"] = plain
        return said
