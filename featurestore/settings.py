"""Settings: one frozen object, read once at start from `featurestore.toml` and the environment.

`FEATURESTORE_REDIS_URL` wins over `redis_url` in the file, which wins over the default.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)


class Settings(BaseSettings):
    """Where everything is."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix="FEATURESTORE_", frozen=True, extra="forbid"
    )

    project: str = Field("featurestore", pattern=r"^[a-z][a-z0-9_-]{0,40}$", description="name of this store")
    definitions: Path = Field(Path("definitions"), description="folder of definition files")
    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Kafka brokers, host:port, comma-separated")
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="online store")
    buckets: int = Field(64, ge=1, le=16_384, description="buckets of the online store; fixed for its life")
    offline_path: Path = Field(Path(".local/offline"), description="folder of the event logs")
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
    batch_records_max: int = Field(50_000, ge=1, le=100_000, description="records that a worker takes at once")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = Path(os.environ.get("FEATURESTORE_CONFIG", "featurestore.toml"))
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=file)

    @property
    def schema_address(self) -> str:
        """Where schemas are kept: a URL or a folder."""
        return self.schema_registry or str(self.offline_path.parent / "schemas")

    def shown(self) -> list[tuple[str, str, str]]:
        """Name, value without secrets, and meaning of every setting."""
        fields = type(self).model_fields
        return [(name, _masked(str(getattr(self, name))), field.description or "") for name, field in fields.items()]


def _masked(value: str) -> str:
    parts = urlsplit(value)
    if parts.password is None:
        return value
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))
