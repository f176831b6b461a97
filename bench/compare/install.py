"""Peers from Debian's packages and the language registries, unpacked into one directory: nothing is installed into the system, no
service is started, and removing the directory removes them."""

import hashlib
import json
import os
import subprocess
import urllib.request
from pathlib import Path

from processes import Failed

NATS_VERSION = "v2.15.2"
ARTEMIS_VERSION = "2.56.0"
ARTEMIS_URL = (
    "https://repo.maven.apache.org/maven2/org/apache/artemis/apache-artemis/"
    f"{ARTEMIS_VERSION}/apache-artemis-{ARTEMIS_VERSION}-bin.tar.gz"
)
VERSIONS = "versions.json"


def run(command: list[str], directory: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=directory, env=environment, text=True, capture_output=True)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def debian(package: str, directory: Path) -> str:
    """A package with what the system lacks of its dependencies, as `apt-get install` would choose them. Its version."""
    plan = run(["apt-get", "--simulate", "--no-install-recommends", "install", package], directory)
    names = {line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")} | {package}
    archives = directory / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    run(["apt-get", "download", *sorted(names)], archives)
    version = ""
    for archive in archives.glob("*.deb"):
        run(["dpkg-deb", "--extract", str(archive), str(directory)], directory)
        name, its_version = run(["dpkg-deb", "--show", "--showformat=${Package} ${Version}", str(archive)], directory).split()
        version = its_version if name == package else version
    return version


def mosquitto(directory: Path) -> str:
    return debian("mosquitto", directory)


def rabbitmq(directory: Path) -> str:
    version = debian("rabbitmq-server", directory)
    # Erlang's starter names the place where the package would have put it.
    if not (directory / "usr/lib/erlang/bin/erl").is_file():
        raise Failed("this Erlang is the system's; the comparison needs one of its own: remove the package erlang-base")
    for path in (directory / "usr/lib/erlang/bin").glob("erl"):
        path.write_text(path.read_text().replace("=/usr/lib/erlang", f"={directory}/usr/lib/erlang"))
    return version


def nats(directory: Path) -> str:
    environment = {**os.environ, "GOBIN": str(directory)}
    run(["go", "install", f"github.com/nats-io/nats-server/v2@{NATS_VERSION}"], directory, environment)
    return NATS_VERSION.removeprefix("v")


def artemis(directory: Path) -> str:
    with urllib.request.urlopen(ARTEMIS_URL) as response:
        archive = response.read()
    with urllib.request.urlopen(f"{ARTEMIS_URL}.sha512") as response:
        expected = response.read().decode().split()[0]
    if hashlib.sha512(archive).hexdigest() != expected:
        raise Failed("the archive of Artemis is damaged: its checksum is another")
    path = directory / "artemis.tar.gz"
    path.write_bytes(archive)
    run(["tar", "--extract", "--gzip", "--file", path.name], directory)
    path.unlink()
    # What its journal needs of the system.
    debian("libaio1", directory)
    return ARTEMIS_VERSION


INSTALLERS = {"rabbitmq": rabbitmq, "artemis": artemis, "mosquitto": mosquitto, "nats": nats}


def versions(directory: Path) -> dict[str, str]:
    """What is installed."""
    path = directory / VERSIONS
    return json.loads(path.read_text()) if path.is_file() else {}


def install(names: list[str], directory: Path) -> bool:
    """Install each, and say of each what came of it. Whether all went well."""
    is_well = True
    for name in names:
        print(f"installing {name} ...", flush=True)
        place = directory / name
        place.mkdir(parents=True, exist_ok=True)
        try:
            version = INSTALLERS[name](place)
            known = {**versions(directory), name: version}
            (directory / VERSIONS).write_text(json.dumps(known, indent=1))
            print(f"  {version}", flush=True)
        except (Failed, OSError) as error:
            is_well = False
            print(f"  failed: {error}", flush=True)
    return is_well
