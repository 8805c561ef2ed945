#!/usr/bin/env bash
# Sets everything up that the tests need beside Python 3.11 or later, then runs them and measures coverage.
#
#   scripts/test.sh [--all] [options of pytest]
#
# Tests that need something from outside (see CONTRIBUTING.md) are skipped where it is missing. With --all nothing is
# left out: slow tests run too, MariaDB is installed where it is missing, and what the environment offers to the tests
# has to work.
# One file, without measuring: scripts/test.sh --no-cov -n 0 tests/unit/test_project.py
# Reports are written to tests/reports/: test_summary.md, coverage_report.html, junit.xml.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

cd -- "$project_root"
prepare_environment requirements-dev.txt

if [[ ${1:-} == --all ]]; then
  shift
  required=${PERSISTENCE_TEST_REQUIRE:-}
  prepare_mariadb
  required="$required,mariadb"
  [[ -z ${PERSISTENCE_TEST_DATA:-} ]] || required="$required,data"
  [[ -z ${PERSISTENCE_TEST_MYSQL9:-} ]] || required="$required,mysql,group"
  export PERSISTENCE_TEST_REQUIRE=$required
else
  set -- -m "not slow" "$@"
fi

# Hundreds of processes are started, and each would compile this project anew.
unset PYTHONDONTWRITEBYTECODE

reports=tests/reports
rm -rf -- "$reports"
mkdir -p -- "$reports"

status=0
# More workers than two processors can feed: many tests wait for a server, a process or a timer. The files are taken in
# the order of their folders, so that the long ones of e2e/ and integration/ do not come last.
"$venv/bin/python" -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder --junit-xml="$reports/junit.xml" \
  --cov --cov-report=term --cov-report=html --cov-report="json:$reports/coverage.json" "$@" || status=$?
"$venv/bin/python" scripts/test_summary.py "$reports" || status=1
exit "$status"
