"""Results as they come, and the table of them."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from peers import PEERS
from rows import HUB, Row


@dataclass
class Result:
    """One measurement: loadgen's report, or why there is none."""

    row: Row
    name: str
    round: int
    report: dict | None
    error: str | None

    def summary(self) -> str:
        if self.report is None:
            return f"FAILED: {self.error}"
        if self.row.is_idle:
            return f"{self.report['serverBytesPerConnection'] / 1024:.1f} KiB a connection"
        figures = self.report["events"]
        latency = figures["latencyMicroseconds"]
        verified = "verified" if self.report["verified"] else "NOT VERIFIED"
        return f"{grouped(figures['perSecond'])} events/s, p99 {latency['p99'] / 1000:.1f} ms, {verified}"


def grouped(number: float) -> str:
    return f"{number:,.0f}".replace(",", " ")


def first_line(path: str, begin: str) -> str:
    lines = (line for line in Path(path).read_text().splitlines() if line.startswith(begin))
    return next(lines, ":?").split(":", 1)[1].strip()


def setting(root: Path, options: argparse.Namespace) -> dict:
    """What the figures depend on besides the servers."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True).stdout.strip()

    memory_kib = int(first_line("/proc/meminfo", "MemTotal").split()[0])
    kind = subprocess.run(
        ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(options.directory)], capture_output=True, text=True
    ).stdout.strip()
    changed = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "commit": git("rev-parse", "--short", "HEAD") + changed,
        "machine": f"{os.cpu_count()} CPUs of {first_line('/proc/cpuinfo', 'model name')}, {memory_kib / 2**20:.0f} GiB",
        "system": f"Linux {platform.release().partition('-')[0]}, {kind}",
        "pinned": f"server on CPU {options.broker_cpu}, load on CPU {options.load_cpu}",
        "seconds": options.seconds,
        "warmUpSeconds": options.warm_up,
        "rounds": options.rounds,
        "loadAverageAtStart": os.getloadavg()[0],
    }


class Results:
    """All measurements of a run."""

    def __init__(self, setting: dict, versions: dict[str, str]):
        self.setting = setting
        self.versions = versions
        self.results: list[Result] = []

    def add(self, row: Row, name: str, number: int, report: dict | None, error: str | None) -> Result:
        self.results.append(Result(row, name, number, report, error))
        return self.results[-1]

    def has_failures(self) -> bool:
        return any(result.report is None for result in self.results)

    def write(self, path: Path) -> None:
        """The table, and beside it every measurement as loadgen reported it."""
        raw = path.with_suffix(".jsonl")
        lines = [json.dumps({"setting": self.setting, "versions": self.versions})]
        for result in self.results:
            report = result.report and {key: value for key, value in result.report.items() if key != "target"}
            if report and "events" in report:
                report["events"] = {k: v for k, v in report["events"].items() if k != "timeline"}
            lines.append(
                json.dumps(
                    {
                        "row": result.row.name,
                        "server": result.name,
                        "round": result.round,
                        "error": result.error,
                        "report": report,
                    }
                )
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        for target, text in ((raw, "\n".join(lines) + "\n"), (path, self.table(raw.name))):
            part = target.with_suffix(".part")
            part.write_text(text)
            part.replace(target)

    def table(self, raw: str | None = None) -> str:
        setting = self.setting
        lines = [
            f"# {setting['date']}: the hub and other brokers",
            "",
            f"Machine: {setting['machine']}; {setting['system']}; {setting['pinned']}. Hub and loadgen of {setting['commit']}.",
            f"Windows of {setting['seconds']:g} s after {setting['warmUpSeconds']:g} s, {setting['rounds']} rounds with the servers in",
            "turn, each on an empty directory; medians, with the lowest and the highest rate. Load average at the start:",
            f"{setting['loadAverageAtStart']:.1f}. 256 B bodies, closed loop, certificates ECDSA P-256. What the columns mean:",
            "[performance.md](../../docs/performance.md#beside-other-brokers)."
            + (f" Raw: [{raw}]({raw})." if raw else ""),
            "",
            "| server | version | settings | an acknowledged event is |",
            "|---|---|---|---|",
        ]
        names = list(dict.fromkeys(result.name for result in self.results))
        for name in names:
            peer = PEERS.get(name)
            version = self.versions.get(peer.package, "?") if peer else setting["commit"]
            about = peer or HUB
            lines.append(f"| {name} | {version} | {about.settings} | {about.acknowledgement} |")
        for row in dict.fromkeys(result.row for result in self.results):
            lines += ["", *self.row_table(row, names)]
        return "\n".join(lines) + "\n"

    def row_table(self, row: Row, names: list[str]) -> list[str]:
        columns = IDLE_COLUMNS if row.is_idle else EVENT_COLUMNS
        lines = [
            f"## {row.title}",
            "",
            f"`loadgen {' '.join(row.arguments)}`"
            + ("; the hub has no MQTT in the clear, it is measured with TLS" if row.is_hub_alone_in_tls() else ""),
            "",
            f"| {' | '.join(columns)} |",
            "|" + "---|" * len(columns),
        ]
        for name in names:
            results = [result for result in self.results if result.row == row and result.name == name]
            if results:
                lines.append(line(name, results, len(columns)))
        return lines


def line(name: str, results: list[Result], column_count: int) -> str:
    """A server's line: medians of the runs that came to something."""
    reports = [result.report for result in results if result.report is not None]
    failed = [result.error.replace("|", "/") for result in results if result.report is None]
    if not reports:
        cells = [name, f"failed: {failed[-1]}", *[""] * (column_count - 3), f"0 of {len(results)}"]
    else:
        cells = [name, *(idle_cells if results[0].row.is_idle else event_cells)(reports)]
        cells.append(f"{len(reports)} of {len(results)}{f'; failed: {failed[-1]}' if failed else ''}")
    return "| " + " | ".join(cells) + " |"


IDLE_COLUMNS = ("server", "KiB per connection", "lowest - highest", "resident MiB", "runs")


def idle_cells(reports: list[dict]) -> list[str]:
    each_kib = [report["serverBytesPerConnection"] / 1024 for report in reports]
    return [
        f"{statistics.median(each_kib):.1f}",
        f"{min(each_kib):.1f} - {max(each_kib):.1f}",
        f"{middle(reports, 'serverResidentBytes') / 2**20:.0f}",
    ]


EVENT_COLUMNS = (
    "server",
    "events/s",
    "lowest - highest",
    "latency ms p50 / p99",
    "server CPU us per event",
    "resident MiB",
    "read back",
    "runs",
)


def event_cells(reports: list[dict]) -> list[str]:
    events = [report["events"] for report in reports]
    rates = [figures["perSecond"] for figures in events]
    p50, p99 = (
        statistics.median(figures["latencyMicroseconds"][key] / 1000 for figures in events) for key in ("p50", "p99")
    )
    return [
        grouped(statistics.median(rates)),
        f"{grouped(min(rates))} - {grouped(max(rates))}",
        f"{p50:.1f} / {p99:.1f}",
        f"{middle(reports, 'serverCpuNanosecondsEach') / 1000:.1f}",
        f"{middle(reports, 'serverResidentBytes') / 2**20:.0f}",
        "all" if all(report["verified"] for report in reports) else "NOT",
    ]


def middle(reports: list[dict], key: str) -> float:
    return statistics.median(report[key] for report in reports)
