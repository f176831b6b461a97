#!/usr/bin/env python3
"""Measures the hub and other brokers with the same load on the same cores, in turn, and writes a table to bench/results/.

    compare.py install                     all peers, unpacked into target/compare/peers; once
    compare.py run                         the whole table
    compare.py run --quick                 a try of 3 seconds each; writes no results
    compare.py run --rows mqtt-many-tls --peers nats,mosquitto --seconds 10 --rounds 3
    compare.py list                        rows and peers
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True

import report
from install import INSTALLERS, install, versions
from peers import PEERS, Place
from processes import Failed
from rows import HUB, ROWS, Row

ROOT = Path(__file__).resolve().parents[2]
HUB_NAME = "hub"
# Start, connecting, reading back and stop of one measurement, about; for the forecast alone.
ASIDE_S = 15


def certificates(directory: Path, host: str) -> None:
    """A CA and a server certificate, ECDSA P-256 like the hub's own."""
    directory.mkdir()
    (directory / "server.ext").write_text(f"subjectAltName=IP:{host}\nextendedKeyUsage=serverAuth\n")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    for command in (
        ["req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=compare CA", "-days", "30"],
        ["req", *curve, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=compare"],
        ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
         "-extfile", "server.ext", "-out", "server.pem"],
        ["pkcs12", "-export", "-inkey", "server.key", "-in", "server.pem", "-certfile", "ca.pem", "-passout",
         "pass:compare", "-out", "server.p12"],
    ):  # fmt: skip
        done = subprocess.run(["openssl", *command], cwd=directory, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"openssl {command[0]}: {done.stderr.strip()[-300:]}")


class Bench:
    """What all measurements share."""

    def __init__(self, options: argparse.Namespace, directory: Path):
        self.options = options
        self.directory = directory
        self.peers = options.directory / "peers"
        self.loadgen = options.binaries / "loadgen"
        self.certificates = directory / "certificates"
        certificates(self.certificates, options.host)

    def measure(self, name: str, row: Row) -> dict:
        """One measurement; loadgen's own report."""
        directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))
        try:
            found = self.measure_hub(row, directory) if name == HUB_NAME else self.measure_peer(name, row, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        if not row.is_idle and not found.get("events", {}).get("latencyMicroseconds"):
            raise Failed("nothing was acknowledged within the window")
        return found

    def measure_hub(self, row: Row, directory: Path) -> dict:
        options = self.options
        arguments = ["--hub-pin", str(options.broker_cpu), "--hub-bind", options.host, "--data-parent", str(directory)]
        # All threads of the hub are to share its core: it inherits this one.
        return self.load([*row.arguments, *row.hub_arguments, *arguments], {}, options.broker_cpu)

    def measure_peer(self, name: str, row: Row, directory: Path) -> dict:
        peer, options = PEERS[name], self.options
        place = Place(
            installed=self.peers / peer.package,
            directory=directory,
            host=options.host,
            cpu=options.broker_cpu,
            certificates=self.certificates,
            protocol=row.protocol,
            has_tls=row.has_tls,
        )
        running = peer.start(place)
        try:
            arguments = [*row.arguments, "--server-pid", str(running.pid)]
            if row.has_tls:
                arguments += ["--ca", str(self.certificates / "ca.pem")]
            # The URL may hold a password, which no list of processes is to show.
            return self.load(arguments, {"LOADGEN_TARGET": running.url}, options.load_cpu)
        except Failed as error:
            log = running.servers[-1].last_words()
            raise Failed(f"{error}; the last of its log: {log}") from None
        finally:
            running.stop()

    def load(self, arguments: list[str], environment: dict[str, str], cpu: int) -> dict:
        options = self.options
        command = ["taskset", "--cpu-list", str(cpu), str(self.loadgen), *arguments, "--cpu", str(options.load_cpu)]
        command += ["--seconds", str(options.seconds), "--warm-up", str(options.warm_up), "--json"]
        load = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # With its own processes and the hub it is a group, which can be ended as a whole.
            start_new_session=True,
        )
        try:
            output, errors = load.communicate(timeout=180 + 10 * options.seconds)
        except subprocess.TimeoutExpired:
            raise Failed("loadgen did not end") from None
        finally:
            if load.poll() is None:
                os.killpg(load.pid, signal.SIGKILL)
                load.wait()
        if load.returncode != 0:
            lines = [line for line in errors.splitlines() if line.strip()]
            raise Failed(lines[-1].strip() if lines else f"loadgen ended with {load.returncode}")
        return json.loads(output)


def chosen(text: str | None, known: list[str], what: str) -> list[str]:
    names = known if text is None else text.split(",")
    for name in names:
        if name not in known:
            raise SystemExit(f"there is no {what} {name}; there are {', '.join(known)}")
    return names


def plan(options: argparse.Namespace) -> list[tuple[int, Row, str]]:
    """Every measurement in its order: the table is whole after each round, and what is compared is measured one after the other."""
    names = chosen(options.peers, [HUB_NAME, *PEERS], "peer")
    rows = [ROWS[name] for name in chosen(options.rows, list(ROWS), "row")]
    fits = lambda row, name: row.protocol in (HUB.protocols if name == HUB_NAME else PEERS[name].protocols)
    turns = [(row, name) for row in rows for name in names if fits(row, name)]
    return [(number, row, name) for number in range(1, options.rounds + 1) for row, name in turns]


def run(options: argparse.Namespace) -> int:
    for program in ("loadgen", "corehub"):
        if not (options.binaries / program).is_file():
            raise SystemExit(f"there is no {program}: cargo build --release -p net -p loadgen")
    turns = plan(options)
    installed = versions(options.directory / "peers")
    missing = {name for _, _, name in turns if name != HUB_NAME and PEERS[name].package not in installed}
    for name in sorted(missing):
        print(f"{name} is not installed and left out: compare.py install {PEERS[name].package}", flush=True)
    turns = [turn for turn in turns if turn[2] not in missing]
    each_s = options.seconds + options.warm_up + ASIDE_S
    print(f"{len(turns)} measurements, about {len(turns) * each_s / 60:.0f} minutes", flush=True)
    options.directory.mkdir(parents=True, exist_ok=True)
    results = report.Results(report.setting(ROOT, options), installed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        with tempfile.TemporaryDirectory(prefix="run-", dir=options.directory) as directory:
            bench = Bench(options, Path(directory))
            for index, (number, row, name) in enumerate(turns, 1):
                print(f"[{index}/{len(turns)}] round {number}  {row.name}  {name} ... ", end="", flush=True)
                began = time.monotonic()
                try:
                    result = results.add(row, name, number, bench.measure(name, row), None)
                except (Failed, OSError, ValueError) as error:
                    result = results.add(row, name, number, None, str(error))
                print(f"{result.summary()} ({time.monotonic() - began:.0f} s)", flush=True)
                if options.results:
                    results.write(options.results)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    if not options.results:
        print(results.table())
    return 1 if results.has_failures() else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=ROOT / "target/compare", help="for peers and data: a real disk")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("install", help="get peers")
    command.add_argument("peers", nargs="*", choices=[[], *INSTALLERS], metavar="PEER", help=", ".join(INSTALLERS))
    commands.add_parser("list", help="rows and peers")
    command = commands.add_parser("run", help="measure")
    command.add_argument("--peers", help="comma-separated; default all, and the hub")
    command.add_argument("--rows", help="comma-separated; default all")
    command.add_argument("--seconds", type=float, default=30, help="of each measured window")
    command.add_argument("--warm-up", type=float, default=5, help="seconds before it")
    command.add_argument("--rounds", type=int, default=5, help="of which the table has the medians")
    command.add_argument("--quick", action="store_true", help="3 s, one round, nothing written")
    command.add_argument("--broker-cpu", type=int, default=0)
    command.add_argument("--load-cpu", type=int, default=1)
    command.add_argument("--host", default="127.0.0.10", help="the loopback address of servers")
    command.add_argument("--binaries", type=Path, default=ROOT / "target/release", help="where loadgen and corehub are")
    command.add_argument("--results", type=Path, help="where the table goes; default bench/results/DATE-compare.md")
    options = parser.parse_args()
    options.directory = options.directory.resolve()
    match options.command:
        case "install":
            return 0 if install(options.peers or list(INSTALLERS), options.directory / "peers") else 1
        case "list":
            for row in ROWS.values():
                print(f"{row.name:22} {row.title}")
            print(f"{HUB_NAME:22} {', '.join(HUB.protocols)}")
            for name, peer in PEERS.items():
                print(f"{name:22} {', '.join(peer.protocols)}; {peer.settings}")
            return 0
        case _:
            if options.quick:
                options.seconds, options.warm_up, options.rounds = 3.0, 1.0, 1
            elif options.results is None:
                options.results = ROOT / "bench/results" / time.strftime("%Y-%m-%d-compare.md")
            return run(options)


if __name__ == "__main__":
    sys.exit(main())
