"""schemathesis over the whole of `/openapi.json`, every check on: examples, edge cases, fuzzing, and calls that follow each other."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import httpx

from tests.e2e.conftest import StartService
from tests.e2e.database import Database
from tests.e2e.service import ROOT

_HOOKS = ROOT / "tests" / "e2e" / "schemathesis_hooks.py"
_CONFIG = _HOOKS.with_name("schemathesis.toml")
# The edge cases of each parameter are refused, or not, before a database is asked, and so are tried on one alone. What each
# database makes of hostile values: contract/ and integration/mysql/test_escaping.py.
_AMOUNT = ("--phases=examples,coverage,fuzzing,stateful", "--max-examples=30")
_AMOUNT_ON_SERVERS = ("--phases=examples,fuzzing,stateful", "--max-examples=10")
_GIVE_UP_S = 900


async def test_every_call_keeps_to_the_schema_whatever_is_sent(
    database: Database, start_service: StartService, tmp_path: Path
) -> None:
    settings = {"buffer.flush_interval": "50ms", "buffer.ack_timeout": "50ms"}
    service = await start_service(database.settings() | settings)
    amount = _AMOUNT if database.kind == "sqlite" else _AMOUNT_ON_SERVERS
    options = (*amount, "--generation-deterministic", "--no-color", "--workers=1")
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "schemathesis.cli",
            f"--config-file={_CONFIG}",
            "run",
            *options,
            f"{service.url}/openapi.json",
        ),
        cwd=tmp_path,
        # The service's code is measured, not this program's.
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        | {"SCHEMATHESIS_HOOKS": str(_HOOKS), "NO_PROXY": "*"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_GIVE_UP_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = output.decode(errors="replace")
    assert process.returncode == 0, said
    async with httpx.AsyncClient(verify=False, trust_env=False, timeout=60) as client:  # noqa: S501  # plain HTTP
        document = (await client.get(f"{service.url}/openapi.json")).json()
        calls = sum(len(methods) for methods in document["paths"].values())
        assert f"Tested: {calls}" in said, said
        assert (await client.get(f"{service.url}/health")).json()["status"] == "healthy"
    assert "Traceback" not in "\n".join(service.log)
