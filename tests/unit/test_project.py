"""The files around the code agree with each other."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import persistence_service

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BASE_AND_SERVER = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["server"]]
DEV = PROJECT["optional-dependencies"]["dev"]


def pins(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return {match[1]: match[2] for match in re.finditer(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)}


@pytest.mark.parametrize(
    "file,declared", [("requirements.txt", BASE_AND_SERVER), ("requirements-dev.txt", BASE_AND_SERVER + DEV)]
)
def test_every_dependency_is_pinned_within_its_range(file: str, declared: list[str]) -> None:
    pinned = pins(file)
    for requirement in map(Requirement, declared):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is pinned at {version}: run scripts/lock.sh"


def test_tests_run_on_the_versions_that_the_service_runs_on() -> None:
    assert pins("requirements.txt").items() <= pins("requirements-dev.txt").items()


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_every_pin_has_hashes_and_no_line_names_an_index(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins(file))
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"://|^-", text, re.MULTILINE)


def test_the_newest_release_in_the_changelog_is_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1:2] in ([], [persistence_service.__version__])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this package, built without an index."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, ROOT], check=True)
    (built,) = folder.iterdir()
    return built


def test_the_wheel_holds_the_whole_package_and_the_schema_of_the_database(wheel: Path) -> None:
    package = ROOT / "persistence_service"
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        schema = archive.read("persistence_service/database/sqlite_schema.sql")
    assert sources - names == set()
    assert "persistence_service/py.typed" in names
    assert any(name.startswith("persistence_service/storage/sql/migrations/versions/0001") for name in names)
    assert schema == (ROOT / "database" / "sqlite_schema.sql").read_bytes()
    assert {name.partition("/")[0] for name in names} == {
        "persistence_service",
        f"persistence_service-{persistence_service.__version__}.dist-info",
    }


# Imports what the client stands on, from the unpacked wheel, where nothing beside `allowed` seems to be installed.
IMPORT_ALONE = """
import sys
folder, *allowed = sys.argv[1:]

class Nothing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in allowed:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Nothing())
sys.path.insert(0, folder)
import importlib, pkgutil
import persistence_service, persistence_service.errors, persistence_service.models
assert persistence_service.__file__.startswith(folder)
for module in pkgutil.walk_packages(persistence_service.models.__path__, "persistence_service.models."):
    importlib.import_module(module.name)
"""


def test_models_and_errors_need_what_the_base_package_declares_and_no_more(wheel: Path, tmp_path: Path) -> None:
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    allowed = {"persistence_service", *modules_of(PROJECT["dependencies"])}
    assert {"httpx", "msgspec"} <= allowed
    assert not {"pydantic", "fastapi", "sqlalchemy", "structlog"} & allowed
    done = subprocess.run(
        [sys.executable, "-I", "-c", IMPORT_ALONE, str(tmp_path), *sorted(allowed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def modules_of(requirements: Iterable[str]) -> set[str]:
    """The importable names that these requirements bring, with those that they need in turn."""
    modules: set[str] = set()
    todo = [*map(Requirement, requirements)]
    seen: set[str] = set()
    while todo:
        requirement = todo.pop()
        if requirement.name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(requirement.name)
        distribution = metadata.distribution(requirement.name)
        modules |= {path.parts[0].partition(".")[0] for path in distribution.files or () if path.suffix == ".py"}
        todo += map(Requirement, distribution.requires or ())
    return modules
