"""The loads, one for each table of the results."""

from dataclasses import dataclass

PROTOCOLS = {"amqp": "AMQP 1.0", "mqtt": "MQTT 3.1.1 QoS 1"}

# A gateway's load, as performance.md has it.
PIPELINED = ("--closed", "--connections", "4")
# Many devices, each of which waits for its acknowledgement before it sends the next one.
CONNECTION_COUNT = "2000"
MANY = ("--closed", "--connections", CONNECTION_COUNT, "--in-flight", "1")


@dataclass(frozen=True)
class Row:
    """One load."""

    name: str
    title: str
    protocol: str
    has_tls: bool
    # Of loadgen, for every server.
    arguments: tuple[str, ...]

    @property
    def is_idle(self) -> bool:
        """Whether it measures memory and not events."""
        return self.arguments[0] == "idle"

    @property
    def hub_arguments(self) -> list[str]:
        """The hub has no MQTT without TLS: there it is measured with it."""
        is_plain = not self.has_tls and self.protocol == "amqp"
        return ["--protocol", self.protocol, *(["--plain"] if is_plain else [])]

    def is_hub_alone_in_tls(self) -> bool:
        return not self.has_tls and self.protocol == "mqtt"


@dataclass(frozen=True)
class Hub:
    """What the table says of the hub."""

    protocols: tuple[str, ...]
    settings: str
    acknowledgement: str


HUB = Hub(
    protocols=("amqp", "mqtt"),
    settings="as it comes: 4 partitions, a token verified for each device, events kept for 7 days",
    acknowledgement="written (O_DIRECT) with O_DSYNC: durable",
)


def rows() -> list[Row]:
    found = []
    for has_tls in (True, False):
        ending, words = ("tls", "TLS") if has_tls else ("plain", "in the clear")
        amqp_pipelined = ("gateway", *PIPELINED, "--in-flight", "2048", "--devices", "250")
        mqtt_pipelined = ("telemetry", *PIPELINED, "--in-flight", "1000")
        found += [
            Row(
                f"amqp-pipelined-{ending}",
                f"AMQP 1.0, {words}: 4 connections of 250 devices each, 2048 events in flight on each",
                "amqp",
                has_tls,
                amqp_pipelined,
            ),
            Row(
                f"mqtt-pipelined-{ending}",
                f"MQTT 3.1.1 QoS 1, {words}: 4 connections of one device each, 1000 events in flight on each",
                "mqtt",
                has_tls,
                mqtt_pipelined,
            ),
        ]
        found += [
            Row(
                f"{protocol}-many-{ending}",
                f"{title}, {words}: 2000 connections, one event in flight on each",
                protocol,
                has_tls,
                ("telemetry", *MANY),
            )
            for protocol, title in PROTOCOLS.items()
        ]
    found += [
        Row(
            f"{protocol}-idle-tls",
            f"{title}, TLS: {CONNECTION_COUNT} connections that only stay",
            protocol,
            True,
            ("idle", "--connections", CONNECTION_COUNT),
        )
        for protocol, title in PROTOCOLS.items()
    ]
    return found


ROWS = {row.name: row for row in rows()}
