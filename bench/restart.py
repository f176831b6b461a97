#!/usr/bin/env python3
"""How long a full hub takes to serve again after it was killed: much log, many identities, requests under way.

    python3 bench/restart.py                                   1 000 000 identities, as much log as comes in 100 s, 5 kills
    python3 bench/restart.py --identities 10000 --seconds 5    a small one

Fills a hub by loadgen and kills it by SIGKILL at full load; creates the identities by `corehub device create --file`, then kills it while more of them are being created. What counts is from the start of
the process to its line `ready`. Needs `cargo build --release -p net -p loadgen`, and the space. What is printed is JSON.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# More than are created before the kill.
MORE = 1_000_000
SERVE = ("--name", "load", "--bind", "127.0.0.9", "--cores", "1", "--partitions", "4", "--pin", "0")
PORTS = ("--amqps-port", "25671", "--https-port", "25443", "--mqtts-port", "28883")
LOAD = ("gateway", "--closed", "--unverified", "--keep-data", "--hub-pin", "0", "--cpu", "1")


def size_of(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


class Hub:
    """A hub over a directory that there is."""

    def __init__(self, program: Path, data: Path):
        began = time.monotonic()
        command = [str(program), "serve", "--data", str(data), *SERVE, *PORTS, "--log", "error"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if line.startswith("ready"):
                self.seconds = time.monotonic() - began
                return
        raise SystemExit(f"the hub ended with {self.process.wait()}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def fill(binaries: Path, parent: Path, seconds: float) -> Path:
    """The data of a hub that was killed under load."""
    command = [str(binaries / "loadgen"), *LOAD, "--data-parent", str(parent), "--seconds", str(2 * seconds + 60)]
    said = parent / "load.txt"
    with said.open("wb") as out:
        load = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=out)
    try:
        time.sleep(seconds)
        found = subprocess.run(["pgrep", "-x", "-P", str(load.pid), "corehub"], capture_output=True, text=True)
        if load.poll() is not None or not found.stdout:
            raise SystemExit(f"the load has ended by itself: {tail(said)}")
        os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
        load.wait(timeout=60)
    finally:
        load.kill()
        load.wait()
    [data] = parent.glob("corehub-load-*")
    return data


def tail(said: Path) -> str:
    """The end of what a program has said."""
    return said.read_text(errors="replace").strip()[-2000:]


def identities(path: Path, numbers: range) -> Path:
    path.write_text("deviceId\n" + "".join(f"meter-{number:08}\n" for number in numbers))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=100, help="of filling")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--binaries", type=Path, default=ROOT / "target" / "release")
    parser.add_argument("--data-parent", type=Path, default=ROOT / "target")
    options = parser.parse_args()
    program = options.binaries / "corehub"
    with tempfile.TemporaryDirectory(prefix="restart-", dir=options.data_parent) as parent:
        parent = Path(parent)
        data = fill(options.binaries, parent, options.seconds)

        def create(numbers: range) -> subprocess.Popen:
            file = identities(parent / "many.csv", numbers)
            with (parent / "create.txt").open("wb") as out:
                return subprocess.Popen(
                    [str(program), "device", "create", "--data", str(data), "--file", str(file)],
                    stdout=subprocess.DEVNULL,
                    stderr=out,
                )

        hub = Hub(program, data)
        filled_s = hub.seconds
        print(f"killed at full load: {filled_s:.3f} s", file=sys.stderr)
        try:
            began = time.monotonic()
            if create(range(options.identities)).wait() != 0:
                raise SystemExit(f"the identities could not be created: {tail(parent / 'create.txt')}")
            created_s = time.monotonic() - began
            seconds = []
            for number in range(options.kills):
                start = options.identities + number * MORE
                more = create(range(start, start + MORE))
                time.sleep(2)
                if more.poll() is not None:
                    raise SystemExit(f"no identities were being created at the kill: {tail(parent / 'create.txt')}")
                hub.kill()
                if more.wait() == 0:
                    raise SystemExit("all identities were created before the kill: nothing was under way")
                hub = Hub(program, data)
                seconds.append(round(hub.seconds, 3))
                print(f"kill {number + 1}: {hub.seconds:.3f} s", file=sys.stderr)
        finally:
            hub.kill()
        found = {
            "identities": options.identities,
            "createdPerSecond": round(options.identities / created_s),
            "bytes": size_of(data),
            "readySecondsAfterIngest": round(filled_s, 3),
            "readySeconds": seconds,
            "medianSeconds": statistics.median(seconds),
        }
        print(json.dumps(found))


if __name__ == "__main__":
    main()
