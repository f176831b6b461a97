"""What is compared: how each server is configured and started, and what its acknowledgement promises."""

import base64
import getpass
import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from string import Template

from processes import Server, accepts

CONFIG = Path(__file__).resolve().parent / "config"

# Apart from the default ports, and below those that the system gives to clients.
PORTS = {
    "amqp_port": 15672,
    "amqps_port": 15671,
    "mqtt_port": 11883,
    "mqtts_port": 18883,
    "nats_port": 14222,
    "epmd_port": 14369,
    "distribution_port": 15673,
}

# Artemis measures it when an instance is made; 0.276 ms was found on a loaded machine, a quiet one syncs faster.
ARTEMIS_BUFFER_TIMEOUT_NS = 100_000


@dataclass(frozen=True)
class Place:
    """Where a server of one measurement lives."""

    installed: Path
    directory: Path
    host: str
    cpu: int
    certificates: Path
    protocol: str
    has_tls: bool

    @property
    def port(self) -> int:
        return PORTS[f"{self.protocol}{'s' if self.has_tls else ''}_port"]

    def write(self, template: str, name: str, **values: object) -> Path:
        """A configuration file, from the one in `config/`."""
        known = {
            **PORTS,
            "host": self.host,
            "data": self.directory / "data",
            "ca": self.certificates / "ca.pem",
            "certificate": self.certificates / "server.pem",
            "key": self.certificates / "server.key",
        }
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template((CONFIG / template).read_text()).substitute({**known, **values}))
        return path

    def libraries(self) -> dict[str, str]:
        """The environment in which an unpacked package finds its libraries."""
        found = [*self.installed.glob("usr/lib/*-linux-gnu*"), *self.installed.glob("lib/*-linux-gnu*")]
        return {"LD_LIBRARY_PATH": ":".join(str(path) for path in found)}

    def url(self, path: str, user: str = "") -> str:
        scheme = f"{self.protocol}{'s' if self.has_tls else ''}"
        return f"{scheme}://{user}{self.host}:{self.port}/{path}"


@dataclass
class Running:
    """A server that is ready for load."""

    servers: list[Server]
    url: str

    @property
    def pid(self) -> int:
        return self.servers[-1].pid

    def stop(self) -> None:
        for server in reversed(self.servers):
            server.stop()


class Peer:
    """A server that can be compared."""

    # What of `install.py` it is.
    package: str
    protocols: tuple[str, ...]
    # What the reader of the table has to know.
    settings: str
    acknowledgement: str

    def launch(self, place: Place, servers: list[Server]) -> tuple[str, str | None]:
        """Start what is needed, the server itself last. The URL for the load, and a word that the log says when it is ready."""
        raise NotImplementedError

    def start(self, place: Place) -> Running:
        (place.directory / "data").mkdir(parents=True)
        servers: list[Server] = []
        try:
            url, said = self.launch(place, servers)
            servers[-1].wait_ready([(place.host, place.port)], said)
        except BaseException:
            Running(servers, "").stop()
            raise
        return Running(servers, url)


class Mosquitto(Peer):
    package = "mosquitto"
    protocols = ("mqtt",)
    settings = "persistence on, unlimited queue, `set_tcp_nodelay`"
    acknowledgement = "held in memory. Written every 30 minutes and at a clean stop: a crash or a power cut loses what was acknowledged since"

    def launch(self, place: Place, servers: list[Server]) -> tuple[str, str | None]:
        path = place.write("mosquitto.conf", "mosquitto.conf", user=getpass.getuser())
        command = [str(place.installed / "usr/sbin/mosquitto"), "-c", str(path)]
        servers.append(Server(command, place.cpu, place.directory / "log", place.libraries()))
        return place.url("load/{device}/events"), None


class Nats(Peer):
    package = "nats"
    protocols = ("mqtt",)
    settings = "JetStream on files, `sync_interval` left at its default"
    acknowledgement = "written to the page cache, synced every 2 minutes: survives a crash of the server, not a power cut"
    sync_interval = "2m"

    def launch(self, place: Place, servers: list[Server]) -> tuple[str, str | None]:
        tls = ""
        if place.has_tls:
            tls = f'tls {{ cert_file: "{place.certificates}/server.pem", key_file: "{place.certificates}/server.key" }}'
        path = place.write(
            "nats.conf", "nats.conf", tls=tls, sync_interval=self.sync_interval, mqtt_listener_port=place.port
        )
        command = [str(place.installed / "nats-server"), "-c", str(path)]
        servers.append(Server(command, place.cpu, place.directory / "log"))
        return place.url("load/{device}/events"), "Server is ready"


class NatsSynced(Nats):
    settings = "JetStream on files, `sync_interval: always`"
    acknowledgement = "written and synced: durable"
    sync_interval = "always"


class RabbitMq(Peer):
    package = "rabbitmq"
    protocols = ("amqp",)
    settings = "plugin `rabbitmq_amqp1_0`, one quorum queue of one member, durable messages"
    acknowledgement = "written to the quorum queue's log and synced (fdatasync): durable"

    def launch(self, place: Place, servers: list[Server]) -> tuple[str, str | None]:
        password, salt = secrets.token_hex(16), secrets.token_bytes(4)
        password_hash = base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
        definitions = place.write("rabbitmq-definitions.json", "definitions.json", password_hash=password_hash)
        configuration = place.write("rabbitmq.conf", "rabbitmq.conf", definitions=definitions)
        plugins = place.directory / "enabled_plugins"
        plugins.write_text("[rabbitmq_amqp1_0].\n")
        erlang = place.installed / "usr/lib/erlang/bin"
        host = place.host.replace(".", ",")
        environment = {
            **place.libraries(),
            "PATH": f"{erlang}:{os.environ['PATH']}",
            # Erlang keeps a cookie there.
            "HOME": str(place.directory),
            "ERL_EPMD_PORT": str(PORTS["epmd_port"]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "compare@localhost",
            "RABBITMQ_DIST_PORT": str(PORTS["distribution_port"]),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-kernel inet_dist_use_interface {{{host}}}",
            "RABBITMQ_CONFIG_FILE": str(configuration),
            "RABBITMQ_CONF_ENV_FILE": str(place.directory / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_MNESIA_BASE": str(place.directory / "data"),
            "RABBITMQ_LOG_BASE": str(place.directory / "logs"),
            "RABBITMQ_PID_FILE": str(place.directory / "pid"),
            # The script becomes the server instead of watching it: its id is the server's.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
        # Else the server leaves one behind that serves the whole machine.
        servers.append(Server([str(erlang / "epmd")], place.cpu, place.directory / "epmd.log", environment))
        servers[0].wait_ready([("127.0.0.1", PORTS["epmd_port"])], None)
        script = next(place.installed.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"))
        servers.append(Server([str(script)], place.cpu, place.directory / "log", environment))
        return place.url("/amq/queue/events", f"load:{password}@"), "startup complete"


class Artemis(Peer):
    package = "artemis"
    protocols = ("amqp", "mqtt")
    settings = "libaio journal, `journal-datasync`, durable messages, 4 GiB heap"
    acknowledgement = "written to the journal and synced (fdatasync): durable"

    def launch(self, place: Place, servers: list[Server]) -> tuple[str, str | None]:
        home = next(place.installed.glob("apache-artemis-*"))
        etc = place.directory / "etc"
        tls = (
            f"sslEnabled=true;keyStoreType=PKCS12;keyStorePath={place.certificates}/server.p12;"
            "keyStorePassword=compare"
        )
        place.write(
            "artemis-broker.xml", "etc/broker.xml", tls=tls, buffer_timeout_ns=ARTEMIS_BUFFER_TIMEOUT_NS
        )
        place.write("artemis-bootstrap.xml", "etc/bootstrap.xml", etc=etc)
        place.write("artemis-management.xml", "etc/management.xml")
        command = [
            "java",
            *("-Xms2G", "-Xmx4G", "-XX:+UseParallelGC"),
            *("-cp", str(home / "lib/artemis-boot.jar")),
            f"-Dartemis.home={home}",
            f"-Dartemis.instance={place.directory}",
            f"-Dartemis.instance.etc={etc}",
            f"-Ddata.dir={place.directory}/data",
            f"-Djava.library.path={home}/bin/lib/linux-{os.uname().machine}",
            f"-Djava.io.tmpdir={place.directory}/data",
            "org.apache.activemq.artemis.boot.Artemis",
            "run",
        ]
        servers.append(Server(command, place.cpu, place.directory / "log", place.libraries()))
        return place.url("events" if place.protocol == "amqp" else "load/{device}/events"), None


PEERS: dict[str, Peer] = {
    "rabbitmq": RabbitMq(),
    "artemis": Artemis(),
    "mosquitto": Mosquitto(),
    "nats": Nats(),
    "nats-synced": NatsSynced(),
}
