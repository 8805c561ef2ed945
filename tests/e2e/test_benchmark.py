"""The benchmark still runs against the service of today; its figures are nobody's business here."""

import asyncio
import json
import sys

from tests.e2e.service import ROOT


async def test_the_ingest_benchmark_measures_both_designs() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "benchmarks" / "ingest.py"),
        *("--rounds=1", "--rows=500", "--batches=50", "--clients=2", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    results = json.loads(output)["results"]
    assert {result["design"] for result in results} == {"service", "simple"}
    assert all(result["rows"] == 500 and result["refused"] == 0 for result in results)
