"""A broker that wants a login and speaks TLS: every client of ours gets in, and a refusal names the setting."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from pydantic import SecretStr, ValidationError

from featurestore.errors import BrokerAccessError, BrokerError, SettingError
from featurestore.local import LocalStack
from featurestore.local.kafka import start_kafka
from featurestore.local.process import free_port
from featurestore.settings import Settings
from featurestore.spec import Topic
from streams.broker import Refusals, admin_client, answer_of, broker_of, client_config, in_words, refusal
from streams.dead_letters import read_letters
from streams.producer import EventProducer
from streams.tail import Tail
from streams.topics import Topics
from tests.campaign.proxy import Proxy
from tests.project import Project
from tests.streams.test_bounds import read_on

PASSWORD = "right-and-secret"
KEY_PASSWORD = "opens-the-key"
SCRAM = {"SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512}
DEFINITIONS = """
from featurestore import Entity, FeatureView, Topic, count

paid = Topic("guarded", schema={"user": str, "at": "timestamp"}, event_time="at", key="user", partitions=2)
by_user = FeatureView("by_user", Entity("user", key="user"), paid, features={"n": count()})
"""


@dataclass(frozen=True)
class Guarded:
    """Addresses of one broker by how it wants to be spoken to, and who signs its certificate."""

    plain: str
    login: str
    both: str
    certified: str
    scram: str
    ca: Path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, stack: LocalStack) -> Iterator[Guarded]:
    # Two of the tests need the stack. As all of them name it, they follow one another, and one broker is enough.
    folder = tmp_path_factory.mktemp("guarded")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "rsa:2048", "-nodes")
    for name in ("ca", "other"):
        # Under one name: a client does not even send what someone signed whom the broker does not name.
        openssl("req", "-x509", *new, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", "/CN=ca")
    openssl("req", *new, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
    openssl("x509", "-req", "-in", "server.csr", *signing, "-out", "server.pem", "-days", "2")
    locked = ("-newkey", "rsa:2048", "-passout", f"pass:{KEY_PASSWORD}")
    openssl("req", *locked, "-keyout", "reader.key", "-out", "reader.csr", "-subj", "/CN=reader")
    openssl("x509", "-req", "-in", "reader.csr", *signing, "-out", "reader.pem", "-days", "2")
    (folder / "store.pem").write_text((folder / "server.key").read_text() + (folder / "server.pem").read_text())

    ports = {name: free_port() for name in ("PLAINTEXT", "LOGIN", "BOTH", "CERTIFIED", "SCRAM")}
    plain, controller = ports["PLAINTEXT"], free_port()
    listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    jaas = f'{module} required user_reader="{PASSWORD}";'
    more = {
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": listeners,
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,LOGIN:SASL_PLAINTEXT,"
        "BOTH:SASL_SSL,CERTIFIED:SSL,SCRAM:SASL_PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.login.plain.sasl.jaas.config": jaas,
        "listener.name.both.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.both.plain.sasl.jaas.config": jaas,
        "listener.name.certified.ssl.client.auth": "required",
        "listener.name.certified.ssl.truststore.type": "PEM",
        "listener.name.certified.ssl.truststore.location": folder / "ca.pem",
        "listener.name.scram.sasl.enabled.mechanisms": ",".join(SCRAM),
    }
    for name in ("both", "certified"):
        more[f"listener.name.{name}.ssl.keystore.type"] = "PEM"
        more[f"listener.name.{name}.ssl.keystore.location"] = folder / "store.pem"
    for mechanism in SCRAM:
        module = "org.apache.kafka.common.security.scram.ScramLoginModule"
        more[f"listener.name.scram.{mechanism.lower()}.sasl.jaas.config"] = f"{module} required;"
    broker = start_kafka(folder / "kafka", plain, lambda line: None, more)
    try:
        yield Guarded(*(f"127.0.0.1:{port}" for port in ports.values()), folder / "ca.pem")
    finally:
        broker.stop()


def access(guarded: Guarded, **more: object) -> dict[str, Any]:
    return {
        "kafka_bootstrap": guarded.both,
        "kafka_security_protocol": "SASL_SSL",
        "kafka_sasl_username": "reader",
        "kafka_sasl_password": PASSWORD,
        "kafka_ssl_ca": guarded.ca,
        **more,
    }


def test_every_client_logs_in_over_tls_and_no_one_tells_the_password(
    guarded: Guarded, stack: LocalStack, tmp_path: Path
) -> None:
    plain: Any = SimpleNamespace(kafka_bootstrap=guarded.plain, redis_url=stack.redis_url)
    project = Project(plain, tmp_path / "guarded", "guarded", DEFINITIONS, **access(guarded))
    try:
        applied = project.command("apply")
        assert applied.returncode == 0, applied.stderr
        worker = project.start_worker()
        broker = broker_of(project.settings)
        with EventProducer(broker) as producer:
            for number in range(300):
                event = {"user": f"u{number % 3}", "at": time.time_ns() // 1_000}
                producer.send(project.repository.topic("guarded"), event)
            producer.send_raw("guarded", b"u1", b"{broken")
        project.wait_until_applied(worker)
        table = project.store.get_many("by_user", {"user": ["u0", "u1", "u2"]})
        assert table["by_user__n"].to_pylist() == [100, 100, 100]
        assert [letter.reason for letter in read_letters(broker, "guarded", ["guarded"])] == ["broken_json"]
        worker.terminate()
        assert worker.wait(60) == 0, project.said()
        shown = project.command("settings").stdout
        assert "kafka_sasl_password" in shown
        for said in (project.log.read_text(), shown, repr(broker), repr(project.settings), applied.stdout):
            assert PASSWORD not in said
    finally:
        project.stop()


def test_a_wrong_password_is_one_line_that_names_the_setting(
    guarded: Guarded, stack: LocalStack, tmp_path: Path
) -> None:
    plain: Any = SimpleNamespace(kafka_bootstrap=guarded.plain, redis_url=stack.redis_url)
    wrong = access(
        guarded,
        kafka_bootstrap=guarded.login,
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_sasl_password="wrong-one",
    )
    project = Project(plain, tmp_path / "wrong", "wrong", DEFINITIONS, **wrong)
    for command in (("dead-letters", "list", "--topic", "guarded"), ("worker",)):
        done = project.command(*command)
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert "check the settings kafka_sasl_username and kafka_sasl_password" in line
        assert "wrong-one" not in line
    # The SDK says so too, and does not wait for a minute first.
    with (
        pytest.raises(BrokerAccessError, match="kafka_sasl_password"),
        EventProducer(broker_of(project.settings)) as sdk,
    ):
        sdk.send_raw("guarded", None, b"{}")


def test_a_password_may_stand_in_a_file(guarded: Guarded, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    settings = Settings(**access(guarded, kafka_sasl_password="", kafka_sasl_password_file=file))
    assert admin_client(broker_of(settings)).list_topics(timeout=30).brokers
    file.unlink()
    with pytest.raises(SettingError, match="kafka_sasl_password_file"):
        broker_of(settings)


def test_a_certificate_of_someone_else_is_refused_and_names_the_setting(guarded: Guarded) -> None:
    settings = Settings(**access(guarded, kafka_ssl_ca=guarded.ca.with_name("other.pem")))
    with pytest.raises(BrokerAccessError, match="kafka_ssl_ca"):
        admin_client(broker_of(settings))
    settings = Settings(**access(guarded, kafka_ssl_ca=guarded.ca.with_name("nowhere.pem")))
    with pytest.raises(BrokerAccessError, match="kafka_ssl_"):
        admin_client(broker_of(settings))


def gets_in(settings: Settings, topic: str) -> None:
    """One client of each kind: admin, producer, reader."""
    broker = broker_of(settings)
    Topics(broker).create([Topic(topic, schema={"at": "timestamp"}, event_time="at", partitions=1)], "guarded")
    with EventProducer(broker) as producer:
        producer.send_raw(topic, None, b"{}")
    with Tail(broker, "", topic, {0: 0}) as tail:
        deadline = time.monotonic() + 30
        while not (batches := tail.read(0.1)):
            assert time.monotonic() < deadline
    assert [list(batch.values) for batch in batches] == [[b"{}"]]


def is_refused(settings: Settings, says: str) -> None:
    """Admin, producer and reader, each within seconds."""
    broker = broker_of(settings)
    begun_s = time.monotonic()
    with pytest.raises(BrokerAccessError, match=says):
        admin_client(broker)
    with pytest.raises(BrokerAccessError, match=says), EventProducer(broker) as producer:
        producer.send_raw("guarded", None, b"{}")
    with pytest.raises(BrokerAccessError, match=says), Tail(broker, "", "guarded", {0: 0}) as tail:
        read_on(tail)
    assert time.monotonic() - begun_s < 15


def test_who_has_a_certificate_gets_in_where_the_broker_wants_one(guarded: Guarded) -> None:
    def certified(**more: object) -> Settings:
        named: dict[str, Any] = {
            "kafka_bootstrap": guarded.certified,
            "kafka_security_protocol": "SSL",
            "kafka_ssl_ca": guarded.ca,
            "kafka_ssl_certificate": guarded.ca.with_name("reader.pem"),
            "kafka_ssl_key": guarded.ca.with_name("reader.key"),
            "kafka_ssl_key_password": KEY_PASSWORD,
            **more,
        }
        return Settings(**named)

    gets_in(certified(), "certified")
    is_refused(certified(kafka_ssl_certificate=None, kafka_ssl_key=None), "kafka_ssl_certificate")
    other = {
        "kafka_ssl_certificate": guarded.ca.with_name("other.pem"),
        "kafka_ssl_key": guarded.ca.with_name("other.key"),
    }
    is_refused(certified(**other), "kafka_ssl_certificate")
    is_refused(certified(kafka_ssl_key_password="wrong-one"), "kafka_ssl_key_password")


@pytest.mark.parametrize("mechanism", SCRAM)
def test_a_login_by_scram_gets_in_with_the_right_password_alone(guarded: Guarded, mechanism: str) -> None:
    kind = ScramCredentialInfo(SCRAM[mechanism], 4_096)
    made = UserScramCredentialUpsertion(mechanism, kind, PASSWORD.encode())
    admin = admin_client(guarded.plain)  # by its name: a client that nobody holds ends what was asked of it
    answer_of(admin.alter_user_scram_credentials([made])[mechanism], 30)
    settings = Settings(
        kafka_bootstrap=guarded.scram,
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_sasl_mechanism=mechanism,
        kafka_sasl_username=mechanism,
        kafka_sasl_password=PASSWORD,
    )
    gets_in(settings, mechanism.lower())
    is_refused(settings.model_copy(update={"kafka_sasl_password": SecretStr("wrong-one")}), "kafka_sasl_password")


def test_a_client_that_speaks_in_the_clear_gets_no_answer(guarded: Guarded) -> None:
    with pytest.raises(BrokerError, match="kafka_security_protocol"):
        admin_client(broker_of(Settings(kafka_bootstrap=guarded.login)))


def test_no_client_is_made_from_a_mere_address() -> None:
    # An address alone would leave the login out: settings go through `broker_of`.
    allowed = {"streams/broker.py", "streams/build.py", "featurestore/settings.py", "featurestore/errors.py"}
    allowed |= {"featurestore/feast/registry.py"}  # Feast is told an address, and connects to nothing
    own = {"local", "demo", "bench"}  # their broker is one of this machine
    root = Path(__file__).parents[2]
    for file in (*root.glob("streams/**/*.py"), *root.glob("featurestore/**/*.py")):
        path = file.relative_to(root)
        if path.as_posix() not in allowed and path.parts[1] not in own:
            assert "kafka_bootstrap" not in file.read_text(), path


def test_a_certificate_that_is_refused_after_the_handshake_is_no_lost_connection() -> None:
    for alert in (42, 45, 46, 48, 116):
        lost = f"ssl://broker:9093/1: Receive failed: SSL routines::some alert: SSL alert number {alert} (after 2ms)"
        assert "kafka_ssl_certificate" in str(refusal(KafkaError(KafkaError._TRANSPORT, lost)))
    # The server's own fault, which may pass: 80 is an internal error.
    for lost in ("Disconnected (after 2ms)", "Receive failed: some alert: SSL alert number 80 (after 2ms)"):
        assert refusal(KafkaError(KafkaError._TRANSPORT, lost)) is None


def test_what_a_command_meets_on_its_way_is_told_in_words() -> None:
    with pytest.raises(BrokerAccessError, match="kafka_sasl_username"), in_words("broker:9092"):
        raise KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    with pytest.raises(BrokerError, match="no Kafka broker answers at broker:9092"), in_words("broker:9092"):
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))


def test_a_login_that_was_cut_off_is_no_refusal() -> None:
    cut = "handshake failed: Local: Broker transport failure: broker's supported mechanisms: (n/a)"
    logins = {
        KafkaError._AUTHENTICATION: (
            f"sasl_plaintext://broker:9092/1: SASL PLAIN mechanism {cut} (after 1ms in state AUTH_HANDSHAKE)",
            "SASL authentication error: SaslAuthenticateRequest failed: Local: Timed out",
            "Disconnected: hung up from peer in state AUTH_LEGACY",
            # What waited for the connection.
            "FindCoordinator response error: Local: Authentication failure",
        ),
        KafkaError._SSL: (
            "SSL handshake failed: SSL transport error: Connection timed out",
            "SSL handshake failed: error:80000068:system library::Connection reset by peer: write failed",
            "SSL handshake failed: error:0A000438:SSL routines::tlsv1 alert internal error: SSL alert number 80",
        ),
    }
    for code, texts in logins.items():
        for text in texts:
            assert refusal(KafkaError(code, text)) is None, text
    refused = {
        "SASL authentication error: Authentication failed: Invalid username or password": "kafka_sasl_password",
        "SASL PLAIN mechanism handshake failed: Broker: Unsupported SASL mechanism": "kafka_sasl_mechanism",
        "SASL SCRAM authentication failed: broker responded with other-error": "kafka_sasl_password",
        "Disconnected: check client PLAIN credentials and broker logs": "kafka_sasl_password",
    }
    for text, setting in refused.items():
        assert setting in str(refusal(KafkaError(KafkaError._AUTHENTICATION, text)))
    unknown = "SSL handshake failed: error:0A000086:SSL routines::certificate verify failed"
    assert "kafka_ssl_ca" in str(refusal(KafkaError(KafkaError._SSL, unknown)))


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_a_broker_that_goes_in_the_middle_of_a_login_is_asked_again(guarded: Guarded, protocol: str) -> None:
    own = guarded.login if protocol == "SASL_PLAINTEXT" else guarded.both
    # A client asks which version, which mechanism, and to be let in, each in a piece; the first follows one of TLS.
    second = 2 if protocol == "SASL_PLAINTEXT" else 3
    cuts, asked = {1: second, 2: second + 1}, Counter[int]()
    proxy = Proxy(int(own.split(":")[1]), Random(0))

    def hears(piece: bytes) -> None:
        asked[proxy.connections] += 1
        if asked[proxy.connections] == cuts.get(proxy.connections):
            proxy.cut_within(1)

    proxy.hears = hears
    settings = access(guarded, kafka_security_protocol=protocol, kafka_bootstrap=f"127.0.0.1:{proxy.port}")
    refusals = Refusals()
    admin = AdminClient({**client_config(broker_of(Settings(**settings))), "error_cb": refusals})
    try:
        assert admin.list_topics(timeout=30).brokers
    finally:
        proxy.stop()
    admin.poll(0)
    refusals.check()
    assert [asked[number] for number in cuts] == list(cuts.values())


def test_workers_that_rebalance_in_two_ways_name_the_setting() -> None:
    refused = refusal(KafkaError(KafkaError.INCONSISTENT_GROUP_PROTOCOL))
    assert "check the settings worker_rebalance, which all workers of a project that run have alike" in str(refused)


def test_a_login_needs_a_name_and_settings_pass_whole_to_another_process() -> None:
    with pytest.raises(ValidationError, match="kafka_sasl_username"):
        Settings(kafka_security_protocol="SASL_SSL")
    told = Settings(
        kafka_security_protocol="SASL_SSL", kafka_sasl_username="reader", kafka_sasl_password=PASSWORD, worker_drain_s=3
    )
    said = {name.removeprefix("FEATURESTORE_").lower(): value for name, value in told.environment().items()}
    assert Settings.model_validate(said) == told
    assert PASSWORD not in str(told.shown())
