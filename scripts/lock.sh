#!/usr/bin/env bash
# Writes requirements.txt (to run the service) and requirements-dev.txt (to work on it) from pyproject.toml: every
# package pinned, with the hashes of all its files, for every system and Python version we support.
#
#   scripts/lock.sh                          keep the pins that still fit
#   scripts/lock.sh --upgrade                newest versions
#   scripts/lock.sh --upgrade-package NAME   newest version of one package
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

cd "$project_root"
prepare_environment requirements-dev.txt

lock() {
  "$venv/bin/python" -m uv pip compile pyproject.toml --quiet --no-config --universal --python-version 3.11 \
    --generate-hashes --no-header "$@"
}

lock --extra server --output-file requirements.txt "$@"
# Constrained by the first, so that tests run on the very versions that the service runs on.
lock --extra server --extra dev --constraint requirements.txt --output-file requirements-dev.txt "$@"

if grep --line-number --extended-regexp '://|^-|file:|@ ' requirements.txt requirements-dev.txt; then
  fail "the lines above name an index or a path: requirements must work with every package index"
fi
