"""The table says what was measured, and what failed."""

import unittest

from report import Results
from rows import ROWS

SETTING = {
    "date": "2000-01-01 00:00",
    "commit": "0000000",
    "machine": "a machine",
    "system": "a system",
    "pinned": "pinned",
    "seconds": 30.0,
    "warmUpSeconds": 5.0,
    "rounds": 3,
    "loadAverageAtStart": 0.0,
}


def measured(per_s: float, verified: int | None = 1) -> dict:
    return {
        "events": {"perSecond": per_s, "latencyMicroseconds": {"p50": 1000, "p99": 2500}},
        "serverCpuNanosecondsEach": 1500.0,
        "serverResidentBytes": 3 << 20,
        "verified": verified,
    }


class Table(unittest.TestCase):
    def line(self, row: str, *runs: tuple[dict | None, str | None]) -> str:
        results = Results(SETTING, {})
        for number, (report, error) in enumerate(runs, 1):
            results.add(ROWS[row], "hub", number, report, error)
        return [line for line in results.table().splitlines() if line.startswith("| hub")][-1]

    def test_medians_with_their_spread(self):
        runs = [(measured(rate), None) for rate in (9000.0, 1000.0, 20000.0)]
        expected = "| hub | 9 000 | 1 000 - 20 000 | 1.0 / 2.5 | 1.5 | 3 | all | 3 of 3 |"
        self.assertEqual(self.line("amqp-many-tls", *runs), expected)

    def test_a_failure_is_told(self):
        line = self.line("amqp-many-tls", (measured(1000.0), None), (None, "it fell | over"))
        self.assertTrue(line.endswith("| 1 of 2; failed: it fell / over |"), line)
        line = self.line("amqp-many-tls", (None, "it fell"))
        self.assertEqual(line, "| hub | failed: it fell |  |  |  |  |  | 0 of 1 |")

    def test_what_was_not_read_back_is_told(self):
        line = self.line("amqp-many-tls", (measured(1.0), None), (measured(1.0, None), None))
        self.assertIn("| NOT |", line)

    def test_idle_connections_have_columns_of_their_own(self):
        report = {"serverBytesPerConnection": 2048.0, "serverResidentBytes": 3 << 20}
        self.assertEqual(self.line("amqp-idle-tls", (report, None)), "| hub | 2.0 | 2.0 - 2.0 | 3 | 1 of 1 |")


if __name__ == "__main__":
    unittest.main()
