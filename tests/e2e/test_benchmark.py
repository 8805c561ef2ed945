"""The benchmarks still run against the service of today; its figures are nobody's business here."""

import asyncio
import json
import re
import sys

import pytest

from tests.e2e.service import ROOT
from tests.servers.server import Server


async def measured(*options: str) -> list[dict[str, float | str]]:
    output = await printed("ingest.py", "--rounds=1", "--rows=500", "--batches=50", "--clients=2", "--json", *options)
    results: list[dict[str, float | str]] = json.loads(output)["results"]
    assert all(result["rows"] == 500 and result["refused"] == 0 for result in results)
    return results


async def printed(program: str, *options: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "benchmarks" / program),
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


@pytest.mark.parametrize("backend", ["sqlite", "mariadb"])
async def test_the_benchmark_of_an_outage_finds_everything_stored_that_was_acknowledged(backend: str) -> None:
    output = await printed("outage.py", f"--backend={backend}", "--records=2000", "--clients=2")
    stored = re.search(r"acknowledged ([\d,]+), stored ([\d,]+)", output)
    assert stored is not None
    assert stored[1] == stored[2]
    assert "waited: 2,000 records" in output
    assert re.search(r"resident memory: \d+ MiB before, \d+ during", output)


async def test_the_ingest_benchmark_measures_both_designs() -> None:
    assert {result["design"] for result in await measured()} == {"service", "simple"}


async def test_the_ingest_benchmark_compares_with_the_databases_own_client(mariadb_server: Server) -> None:
    assert mariadb_server.kind == "mariadb", "so it is installed"
    client, service = await measured("--backend=mariadb")
    assert (client["design"], service["design"], client["ratio"]) == ("client", "service", 1)
    assert float(service["ratio"]) == float(service["stored_per_s"]) / float(client["stored_per_s"])
