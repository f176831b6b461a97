"""Servers as plain processes: started pinned, waited for, stopped by their id."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 30


class Failed(Exception):
    """What the reader of the table is told of a measurement that came to nothing."""


class Server:
    """One process on one CPU, its output in a file."""

    def __init__(self, command: list[str], cpu: int, log: Path, environment: dict[str, str] | None = None):
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                ["taskset", "--cpu-list", str(cpu), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd=log.parent,
                # An interrupt at the terminal is ours to handle: a server that goes first would look like one that failed.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """taskset becomes the command, and the commands here become their servers: it is the server's own."""
        return self.process.pid

    def wait_ready(self, addresses: list[tuple[str, int]], said: str | None) -> None:
        """Until it accepts connections at all of `addresses` and has said `said`."""
        end = time.monotonic() + START_TIMEOUT_S
        waiting = list(addresses)
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise Failed(f"it ended while it started: {self.last_words()}")
            waiting = [address for address in waiting if not accepts(address)]
            if not waiting and (said is None or said in self.log.read_text(errors="replace")):
                return
            time.sleep(0.1)
        raise Failed(f"it was not ready in {START_TIMEOUT_S} s: {self.last_words()}")

    def last_words(self) -> str:
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines()]
        # A stack trace is no word.
        lines = [line for line in lines if line and not line.startswith(("at ", "... "))]
        return lines[-1][:200] if lines else "it said nothing"

    def stop(self) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(sign)
                try:
                    self.process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    continue


def accepts(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
        return True
    except OSError:
        return False
