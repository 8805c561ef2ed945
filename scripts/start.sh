#!/usr/bin/env bash
# Sets everything up that the service needs beside Python 3.11 or later, then runs it in the foreground.
#
#   scripts/start.sh [options of `persistence-service serve`]
#
# It runs in the project's folder: relative paths (data/, config/, --config) start there. The environment and .env
# configure it; PYTHON and PERSISTENCE_VENV choose interpreter and virtual environment (see environment.sh).
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

cd -- "$project_root"
prepare_environment requirements.txt
exec "$venv/bin/python" main.py serve "$@"
