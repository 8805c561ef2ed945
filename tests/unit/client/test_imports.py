"""A worker that imports the client needs none of what the service is made of."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
SERVER = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["server"]
# Packages whose modules have other names, and those that come along.
MODULES = {
    "python-dotenv": "dotenv",
    "PyYAML": "yaml",
    "SQLAlchemy": "sqlalchemy",
    "fastapi-standalone-docs": "fastapi_standalone_docs",
    "prometheus-client": "prometheus_client",
}
PROGRAM = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"{name} is not installed for a worker", name=name)

absent = set(json.loads(sys.argv[1]))
sys.meta_path.insert(0, Absent())
import persistence_service.client
print(json.dumps([name for name in sys.modules if name.startswith("persistence_service.")]))
"""


def test_the_client_is_imported_where_nothing_of_the_service_is_installed() -> None:
    names = [Requirement(line).name for line in SERVER]
    absent = [MODULES.get(name, name) for name in names] + ["starlette", "pydantic_core", "pymysql", "sqlite3"]
    program = [sys.executable, "-c", PROGRAM, json.dumps(absent)]
    run = subprocess.run(program, cwd=ROOT, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    parts = {name.split(".")[1] for name in json.loads(run.stdout)}
    assert parts == {"client", "models", "errors"}
