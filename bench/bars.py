#!/usr/bin/env python3
"""Takes the figures of docs/performance.md: each load several times against the hub, medians as a table.

A bar is what the hub is meant to reach on a machine of two cores at 2.5 GHz: the column beside the median.

    python3 bench/bars.py                                  all rows, 30 s each, 5 rounds
    python3 bench/bars.py --rows gateway-tls --rounds 3 --seconds 10
    python3 bench/bars.py --list

Needs Python 3.11, `cargo build --release -p net -p loadgen -p bench` and a machine that does nothing else; `ulimit -n` of 20 000. The raw reports go to
bench/results/DATE-bars.jsonl, one a line, with commit, machine and arguments; the table is printed. The row `ceilings` is what
the machine gives without a hub: a bar that was set on another machine is to be held against it.
"""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Reports whose server has a core of its own.
PINNED = ("--hub-pin", "0", "--cpu", "1")
# The load shares the hub's one core, or its two.
ONE_SHARED = ("--hub-pin", "0", "--cpu", "0")
# Two hubs of a core each that know nothing of each other, each with its load on its own core.
TWO_HUBS = (ONE_SHARED, ("--hub-pin", "1", "--cpu", "1", "--hub-bind", "127.0.0.10"))
TWO_SHARED = ("--hub-cores", "2", "--hub-pin", "0,1", "--cpu", "0,1", "--processes", "2")


@dataclass(frozen=True)
class Row:
    """One load and its bar."""

    title: str
    bar: str
    arguments: tuple[str, ...]
    # What is compared with the bar: a path into loadgen's report, what it is divided by, and its unit.
    figure: tuple[str, ...] = ("events", "perSecond")
    divisor: float = 1.0
    unit: str = "events/s"
    place: tuple[str, ...] = PINNED
    # In place of a load: `bench` with these.
    bench: tuple[str, ...] = ()
    # In place of one load: several at once.
    places: tuple[tuple[str, ...], ...] = ()


GATEWAY = ("gateway", "--closed")
# Warmed up until retention removes as much as comes: segments are recycled from then on. 4 GiB take 24 s at 500 000 events/s.
RETAINED = ("--retention-mib", "4096", "--warm-up", "30")
MQTT_GATEWAY = ("telemetry", "--closed", "--protocol", "mqtt", "--connections", "4", "--in-flight", "2048")
MANY = ("telemetry", "--closed", "--connections", "10000")
CPU_EACH = {"figure": ("serverCpuNanosecondsEach",), "unit": "ns of the hub's CPU each"}
IDLE = {"figure": ("serverBytesPerConnection",), "divisor": 1024.0, "unit": "KiB each"}
CONNECTS = {"figure": ("connects", "perSecond"), "unit": "connects/s"}
P99 = {"figure": ("events", "latencyMicroseconds", "p99"), "unit": "us"}
PASS = {"figure": ("passes", "-1", "wireBytesPerS"), "divisor": 1e9, "unit": "GB/s as it travels, the last pass"}

ROWS = {
    "ceilings": Row(
        "the machine alone: round trips over TCP, handshakes, durable writes at the pace of 500 000 events/s and flat out",
        "",
        (),
        figure=("round_trips_per_s",),
        unit="round trips/s; the others are in the results",
        bench=("ceilings", "5"),
    ),
    "gateway-tls": Row("gateway ingest, AMQP, TLS 1.3", "1.0 M", GATEWAY),
    "gateway-retained": Row("the same with retention active", "1.0 M", (*GATEWAY, *RETAINED)),
    "gateway-flush-1": Row("the same, each sync 1 ms longer", "", (*GATEWAY, "--hub-arg=--sync-delay-ms=1")),
    "gateway-flush-5": Row("the same, each sync 5 ms longer", "", (*GATEWAY, "--hub-arg=--sync-delay-ms=5")),
    "gateway-plain": Row("gateway ingest, AMQP, in the clear", "20 % of the ceiling", (*GATEWAY, "--plain")),
    "gateway-plain-retained": Row(
        "the same with retention active", "20 % of the ceiling", (*GATEWAY, "--plain", *RETAINED)
    ),
    "mqtt-gateway": Row("4 connections, MQTT QoS 1, TLS, 2048 in flight", "80 % of AMQP's", MQTT_GATEWAY),
    "mqtt-retained": Row("the same with retention active", "80 % of AMQP's", (*MQTT_GATEWAY, *RETAINED)),
    "many-tls": Row("10 000 AMQP connections, one event in flight each, TLS", "60 k/s", MANY),
    "many-mqtt": Row("10 000 MQTT connections, one event in flight each, TLS", "80 % of AMQP's", (*MANY, "--protocol", "mqtt")),
    "latency": Row(
        "acknowledgement at 500 000 events/s, p99",
        "4 x the p99 of one commit",
        ("gateway", "--rate", "500000"),
        **P99,
    ),
    "latency-retained": Row(
        "the same with retention active",
        "4 x the p99 of one commit",
        ("gateway", "--rate", "500000", *RETAINED),
        **P99,
    ),
    "ingest-alone": Row("acknowledgement at 100 000 events/s, p99", "", ("gateway", "--rate", "100000"), **P99),
    "ingest-beside-replay": Row(
        "the same beside commands and a reader of what 30 s of full load have left on the disk",
        "twice",
        ("mixed", "--rate", "100000", "--fill", "30"),
        **P99,
    ),
    "idle-amqp": Row("idle AMQP device, session and two links", "6.5 KiB", ("idle", "--connections", "10000"), **IDLE),
    "idle-mqtt": Row("idle MQTT device", "6.5 KiB", ("idle", "--connections", "10000", "--protocol", "mqtt"), **IDLE),
    "connect-full": Row("full connects, TLS 1.3", "4 k/s", ("connect", "--closed", "--tls", "1.3"), **CONNECTS),
    "connect-resumed": Row("reconnects with TLS 1.2 tickets", "15 k/s", ("connect", "--closed", "--tls", "1.2", "--resume"), **CONNECTS),
    "connect-mqtt": Row(
        "full connects by MQTT, TLS 1.3", "", ("connect", "--closed", "--tls", "1.3", "--protocol", "mqtt"), **CONNECTS
    ),
    "connect-mqtt-resumed": Row(
        "reconnects by MQTT with TLS 1.2 tickets",
        "15 k/s",
        ("connect", "--closed", "--tls", "1.2", "--resume", "--protocol", "mqtt"),
        **CONNECTS,
    ),
    "commands": Row(
        "command cycles over the wire, with receipts",
        "50 k/s",
        ("commands", "--closed"),
        figure=("commands", "perSecond"),
        unit="cycles/s",
    ),
    "replay-plain": Row("replay to one reader, in the clear", "1.0 GB/s", ("replay", "--plain"), **PASS),
    "replay-tls": Row("replay to one reader, TLS", "0.7 GB/s", ("replay",), **PASS),
    "one-core": Row(
        "gateway ingest with retention, hub and load on the same core", "", (*GATEWAY, *RETAINED), **CPU_EACH, place=ONE_SHARED
    ),
    "two-hubs": Row(
        "two hubs of one core each at once, load on the same cores", "", (*GATEWAY, *RETAINED), **CPU_EACH, places=TWO_HUBS
    ),
    "two-cores": Row(
        "the same on two cores", "within 10 %", (*GATEWAY, *RETAINED), **CPU_EACH, place=TWO_SHARED
    ),
}


def figure_of(row: Row, report: dict) -> float:
    value = report
    for step in row.figure:
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value / row.divisor


def commit() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return described.stdout.strip()


def machine() -> str:
    with open("/proc/cpuinfo") as cpus:
        model = next((line.split(":", 1)[1].strip() for line in cpus if line.startswith("model name")), "unknown")
    return f"{os.cpu_count()} CPUs of {model}, Linux {platform.release().partition('-')[0]}"


def start(row: Row, place: tuple[str, ...], options: argparse.Namespace) -> subprocess.Popen:
    command = [str(options.binaries / "loadgen"), *row.arguments, *place, "--json"]
    command += ["--seconds", str(options.seconds), "--data-parent", str(options.data_parent)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def report_of(load: subprocess.Popen, output: str, said: str) -> dict:
    if load.returncode != 0:
        raise SystemExit(f"{' '.join(load.args[1:])}: {said.strip()[-2000:]}")
    report = json.loads(output)
    for part in report.values():
        if isinstance(part, dict):
            part.pop("timeline", None)
    # What each core of the hub says of itself when it stops, warming up included.
    report["cores"] = re.findall(r"\d+ turns, .*", said)
    return report


def measure(row: Row, options: argparse.Namespace) -> dict:
    if row.bench:
        command = [str(options.binaries.resolve() / "bench"), *row.bench]
        done = subprocess.run(command, cwd=options.data_parent, capture_output=True, text=True, check=True)
        return tomllib.loads(done.stdout)
    loads = [start(row, place, options) for place in row.places or (row.place,)]
    # All have ended before one of them is found to have failed.
    said = [load.communicate() for load in loads]
    reports = [report_of(load, *texts) for load, texts in zip(loads, said)]
    if not row.places:
        return reports[0]
    counts = [report["events"]["count"] for report in reports]
    cpu_ns = [report["serverCpuNanosecondsEach"] * count for report, count in zip(reports, counts)]
    return {"serverCpuNanosecondsEach": sum(cpu_ns) / sum(counts), "each": reports}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="names with commas between; default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--pause", type=float, default=0, help="seconds before each run: some disks must rest to be as fast again")
    parser.add_argument("--binaries", type=Path, default=ROOT / "target" / "release")
    parser.add_argument("--data-parent", type=Path, default=ROOT / "target")
    parser.add_argument("--results", type=Path, help="where the raw reports are appended")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        for name, row in ROWS.items():
            print(f"{name:<22} {row.title}: {row.bar}")
        return
    names = options.rows.split(",") if options.rows else list(ROWS)
    for name in names:
        if name not in ROWS:
            raise SystemExit(f"there is no row {name}; --list names them")
    results = options.results or ROOT / "bench" / "results" / f"{datetime.date.today()}-bars.jsonl"
    of_commit = commit()
    found: dict[str, list[float]] = {name: [] for name in names}
    # Round by round, not row by row: what the machine does in one minute is then spread over all of them.
    for number in range(options.rounds):
        for name in names:
            row = ROWS[name]
            time.sleep(options.pause)
            report = measure(row, options)
            with results.open("a") as out:
                line = {"row": name, "commit": of_commit, "machine": machine()}
                line |= {"arguments": [*row.bench] or [*row.arguments, *(row.places or row.place)], "report": report}
                out.write(json.dumps(line) + os.linesep)
            found[name].append(figure_of(row, report))
            print(f"round {number + 1} {name}: {found[name][-1]:.6g} {row.unit}", file=sys.stderr)
    print("| load | bar | median | lowest to highest |\n|---|---|---|---|")
    for name in names:
        row, values = ROWS[name], sorted(found[name])
        print(
            f"| {row.title} | {row.bar or '-'} | {statistics.median(values):.6g} {row.unit} | {values[0]:.6g} to {values[-1]:.6g} |"
        )


if __name__ == "__main__":
    main()
