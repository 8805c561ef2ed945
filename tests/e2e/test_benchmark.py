"""The benchmark still runs against the service of today; its figures are nobody's business here."""

import asyncio
import json
import sys

from tests.e2e.service import ROOT
from tests.servers.server import Server


async def measured(*options: str) -> list[dict[str, float | str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "benchmarks" / "ingest.py"),
        *("--rounds=1", "--rows=500", "--batches=50", "--clients=2", "--json", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    results: list[dict[str, float | str]] = json.loads(output)["results"]
    assert all(result["rows"] == 500 and result["refused"] == 0 for result in results)
    return results


async def test_the_ingest_benchmark_measures_both_designs() -> None:
    assert {result["design"] for result in await measured()} == {"service", "simple"}


async def test_the_ingest_benchmark_compares_with_the_databases_own_client(mariadb_server: Server) -> None:
    assert mariadb_server.kind == "mariadb", "so it is installed"
    client, service = await measured("--backend=mariadb")
    assert (client["design"], service["design"], client["ratio"]) == ("client", "service", 1)
    assert float(service["ratio"]) == float(service["stored_per_s"]) / float(client["stored_per_s"])
