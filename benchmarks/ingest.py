"""How fast batches are acknowledged and stored, beside a reference.

On SQLite that is the plain design that keeps batches in memory alone; on MySQL and MariaDB it is the database's own client,
which loads the same rows from a prepared file. Both run in turn, each time on a new database, so that whatever else the
machine does hits both.
`python benchmarks/ingest.py --help` has the options, README.md beside this file a result.
"""

import argparse
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.load import cpu_of  # a program, not a package
from benchmarks.native import measure_client, running_server
from tests.servers.server import Server  # only a checkout has it

HERE = Path(__file__).parent
_LISTENING = re.compile(r"Uvicorn running on http://[\d.]+:(\d+)")
SERVICE, SIMPLE, CLIENT = "service", "simple", "client"
SERVERS = ("mysql", "mariadb")


@dataclass(frozen=True, order=True)
class Case:
    """A load: tasks per batch, and clients at once."""

    batch: int
    clients: int


@dataclass(frozen=True)
class Figures:
    """What was measured of one design in one case, over all rounds. Latencies are in ms, CPU in s per 100,000 rows.

    `ratio` is of the rows stored a second to those of the reference in the same rounds, where that is the database's client.
    """

    design: str
    batch: int
    clients: int
    rows: int
    acknowledged_per_s: float
    stored_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    refused: int
    service_cpu_s: float
    load_cpu_share: float
    server_cpu_s: float | None = None
    ratio: float | None = None


@contextmanager
def running(
    design: str, storage: Mapping[str, object], folder: Path, options: Sequence[str]
) -> Iterator[tuple[int, int]]:
    """Port and process id of a design, started on new data in `folder`."""
    command = [sys.executable, str(HERE / "simple_design.py"), str(folder / "simple.db")]
    if design == SERVICE:
        settings = [f"{key}={value}" for key, value in storage.items()]
        settings += [f"journal.directory={folder / 'journal'}", "logging.file="]
        settings += [f"sqlite.path={folder / 'service.db'}", *options]
        command = [sys.executable, str(HERE.parent / "main.py"), "serve", "--port=0"]
        command += [f"--set={setting}" for setting in settings]
    log = folder / "log"
    with log.open("wb") as out, subprocess.Popen(command, cwd=folder, stdout=out, stderr=out) as process:
        try:
            yield _port(process, log), process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    while process.poll() is None:
        if found := _LISTENING.search(log.read_text(errors="replace")):
            return int(found[1])
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    raise SystemExit(f"the process to be measured did not start:\n{log.read_text(errors='replace')}")


def measure(design: str, case: Case, options: argparse.Namespace, server: Server | None) -> dict[str, Any]:
    """One run of one design."""
    # A request costs the same whatever is in it, up to a point: small batches need fewer rows to be measured.
    rows = options.rows if case.batch > 1 else max(1, options.rows // 10)
    job = {"rows": rows, "seconds": options.seconds, "rate": options.rate, **asdict(case)}
    with tempfile.TemporaryDirectory(prefix="ingest-", dir=options.directory) as name:
        folder = Path(name)
        if server is None:
            with running(design, {"storage.backend": options.backend}, folder, options.set) as process:
                return loaded(job, process)
        if design == CLIENT:
            return measure_client(server, rows, folder)
        database = server.new_database()
        try:
            with running(design, server.settings(database), folder, options.set) as process:
                before = cpu_of(server.pid)
                return loaded(job, process) | {"server_cpu_s": cpu_of(server.pid) - before}
        finally:
            server.drop(database)


def loaded(job: Mapping[str, object], process: tuple[int, int]) -> dict[str, Any]:
    """What the load generator measured of the process that listens on this port and has this id."""
    port, pid = process
    done = subprocess.run(
        [sys.executable, str(HERE / "load.py")],
        input=json.dumps({"port": port, "pid": pid, **job}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def figures(design: str, case: Case, runs: list[dict[str, Any]]) -> Figures:
    """The runs of one design in one case as figures."""
    total: dict[str, float] = {name: sum(run[name] for run in runs) for name in runs[0] if name != "latencies"}
    latencies: list[float] = sorted(latency for run in runs for latency in run.get("latencies", [0.0]))
    acknowledged_s = total.get("acknowledged_s", total["stored_s"])

    def percentile(share: float) -> float:
        return 1000.0 * latencies[min(len(latencies) - 1, math.ceil(share * len(latencies)) - 1)]

    def cpu_s(seconds: float) -> float:
        return seconds / total["rows"] * 100_000

    return Figures(
        design=design,
        batch=case.batch,
        clients=case.clients,
        rows=round(total["rows"]),
        acknowledged_per_s=total["rows"] / acknowledged_s,
        stored_per_s=total["rows"] / total["stored_s"],
        p50_ms=percentile(0.50),
        p95_ms=percentile(0.95),
        p99_ms=percentile(0.99),
        refused=round(total.get("refused", 0)),
        service_cpu_s=cpu_s(total.get("service_cpu_s", 0)),
        load_cpu_share=total["own_cpu_s"] / acknowledged_s,
        server_cpu_s=cpu_s(total["server_cpu_s"]) if "server_cpu_s" in total else None,
    )


def compared(results: Sequence[Figures]) -> list[Figures]:
    """The results with each one's ratio to the database's client in its case."""
    clients = {(each.batch, each.clients): each.stored_per_s for each in results if each.design == CLIENT}
    return [
        replace(each, ratio=each.stored_per_s / clients[case])
        if (case := (each.batch, each.clients)) in clients
        else each
        for each in results
    ]


def table_of(results: Sequence[Figures]) -> Table:
    """The results for people."""
    table = Table()
    table.add_column("batch × clients")
    table.add_column("design")
    columns = ["acknowledged rows/s", "stored rows/s", "p50 ms", "p95 ms", "p99 ms", "503s", "CPU s/100k", "load's CPU"]
    on_server = any(result.server_cpu_s is not None for result in results)
    columns += ["server's CPU s/100k", "ratio"] if on_server else []
    for name in columns:
        table.add_column(name, justify="right")
    for result in results:
        is_service = result.design != CLIENT
        cells = [
            f"{result.acknowledged_per_s:,.0f}" if is_service else "",
            f"{result.stored_per_s:,.0f}",
            *(f"{ms:.2f}" if is_service else "" for ms in (result.p50_ms, result.p95_ms, result.p99_ms)),
            str(result.refused) if is_service else "",
            f"{result.service_cpu_s:.2f}" if is_service else "",
            f"{result.load_cpu_share:.0%}",
        ]
        if on_server:
            cells += [f"{result.server_cpu_s or 0:.2f}", "" if result.ratio is None else f"{result.ratio:.2f}"]
        table.add_row(
            f"{result.batch:,} × {result.clients}",
            result.design,
            *cells,
            end_section=result.design != results[0].design,
        )
    return table


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000, help="tasks a run; a tenth at batches of 1 (%(default)s)")
    parser.add_argument("--seconds", type=float, default=15, help="longest time a run sends (%(default)s)")
    parser.add_argument("--rate", type=float, default=0, help="rows/s to send at (0: as fast as it goes)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each design in each case (%(default)s)")
    parser.add_argument("--batches", type=_numbers, default=[1, 50, 1000], help="tasks a batch (1,50,1000)")
    parser.add_argument("--clients", type=_numbers, default=[1, 10], help="clients at once (1,10)")
    parser.add_argument(
        "--backend",
        default="sqlite",
        help="the service's storage.backend, or mariadb; servers are started (%(default)s)",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the service")
    parser.add_argument("--only", choices=(SERVICE, SIMPLE, CLIENT), help="measure one design alone")
    parser.add_argument("--directory", help="where journal and databases lie meanwhile (the system's temporary folder)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


@contextmanager
def server_for(backend: str, directory: str | None) -> Iterator[Server | None]:
    """A private server of the kind that the backend needs, None if it needs none."""
    if backend not in SERVERS:
        yield None
        return
    with (
        tempfile.TemporaryDirectory(prefix="ingest-server-", dir=directory) as folder,
        running_server(backend, Path(folder)) as server,
    ):
        yield server


def main() -> None:
    """Measure, and print."""
    options = parse()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    cases = [Case(batch, clients) for batch in options.batches for clients in options.clients]
    runs: defaultdict[tuple[str, Case], list[dict[str, Any]]] = defaultdict(list)
    with server_for(options.backend, options.directory) as server:
        both = [SERVICE, SIMPLE if server is None else CLIENT]
        for number in range(options.rounds):
            designs = [options.only] if options.only else both
            for case in cases:
                for design in designs if number % 2 == 0 else reversed(designs):
                    runs[design, case].append(measure(design, case, options, server))
                    last = runs[design, case][-1]
                    speed = f"{last['rows'] / last['stored_s']:,.0f}/s"
                    print(f"round {number + 1}: {case} {design} {speed}", file=sys.stderr)
    results = compared([figures(design, case, found) for (design, case), found in runs.items()])
    results.sort(key=lambda result: (result.batch, result.clients, result.design))
    source = "real data" if os.environ.get("PERSISTENCE_TEST_DATA") else "generated sample"
    about = f"Python {platform.python_version()}, {os.cpu_count()} cores, {source}, {options.rounds} rounds, backend {options.backend}"
    if options.json:
        print(json.dumps({"about": about, "results": [asdict(result) for result in results]}, indent=2))
        return
    console = Console(width=130)
    console.print(about)
    console.print(table_of(results))


if __name__ == "__main__":
    main()
