#!/usr/bin/env bash
# Checks everything that needs no run of the code: style, format, types, layering, shell scripts.
set -uo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

cd -- "$project_root" || exit
(prepare_environment requirements-dev.txt) || exit

# All checks run, whatever the ones before them found.
failed=""
check() {
  local name=$1
  shift
  say "== $name"
  "$@" || failed="$failed $name"
}

check ruff "$venv/bin/python" -m ruff check .
check ruff-format "$venv/bin/python" -m ruff format --check .
check mypy "$venv/bin/python" -m mypy
check lint-imports "$venv/bin/python" "$venv/bin/lint-imports" --no-logo

shellcheck=$venv/bin/shellcheck
[[ -x $shellcheck ]] || shellcheck=$(command -v shellcheck) || fail "shellcheck is missing, install it (apt-get install shellcheck)"
check shellcheck "$shellcheck" --external-sources --source-path=SCRIPTDIR scripts/*.sh .ci/run

[[ -z $failed ]] || fail "failed:$failed"
say "all checks passed"
