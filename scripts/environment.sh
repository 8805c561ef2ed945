# Shared by the scripts beside it, which source it: finds Python, keeps a virtual environment up to date, and provides the
# database server that all tests need.
#
# From the environment:
#   PYTHON             the interpreter to make the virtual environment with (otherwise the newest supported one found)
#   PERSISTENCE_VENV   where the virtual environment is (otherwise .venv in the project)
# shellcheck shell=bash

project_root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=${PERSISTENCE_VENV:-$project_root/.venv}

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "error: $*"
  exit 1
}

# Prints major.minor of the interpreter $1, and fails when it does not run at all.
python_version() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

is_supported() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

can_make_venv() {
  "$1" -c 'import ensurepip, venv' 2>/dev/null
}

# Sets `python` to an interpreter that can make a virtual environment, or says what is missing and how to get it.
find_python() {
  local candidates="python3.13 python3.12 python3.11 python3" candidate without_venv=""
  if [[ -n ${PYTHON:-} ]]; then
    is_supported "$PYTHON" || fail "PYTHON=$PYTHON is not a working Python 3.11 or later"
    can_make_venv "$PYTHON" || name_missing_venv "$PYTHON"
    python=$PYTHON
    return
  fi
  for candidate in $candidates; do
    is_supported "$candidate" || continue
    if can_make_venv "$candidate"; then
      python=$candidate
      return
    fi
    without_venv=${without_venv:-$candidate}
  done
  [[ -z $without_venv ]] || name_missing_venv "$without_venv"
  fail "Python 3.11 or later is missing. Install it (Debian, Ubuntu: apt-get install python3 python3-venv;" \
    "Fedora: dnf install python3; macOS: brew install python@3.13), or name one: PYTHON=/path/to/python3"
}

name_missing_venv() {
  fail "$1 has no venv or ensurepip module. Install it (Debian, Ubuntu: apt-get install python$(python_version "$1")-venv)"
}

# Makes the virtual environment where it is missing, and installs the requirements file $1 (a name in the project's
# root) into it, unless exactly this file was installed there before. A copy of the file, kept in the virtual
# environment under the version of its Python, is the mark of that.
prepare_environment() {
  local file=$1 present wanted mark
  [[ ! -e $venv/bin/python || -e $venv/pyvenv.cfg ]] || fail "$venv is no virtual environment (PERSISTENCE_VENV)"
  present=$(python_version "$venv/bin/python") || present=""
  if [[ -n ${PYTHON:-} && -n $present ]]; then
    wanted=$(python_version "$PYTHON") || fail "PYTHON=$PYTHON does not run"
    if [[ $wanted != "$present" ]]; then
      say "Replacing $venv: it has Python $present, and PYTHON asks for $wanted"
      rm -rf -- "$venv"
      present=""
    fi
  fi
  mark=$venv/installed/$present/$file
  if [[ -n $present && -f $mark && $(<"$mark") == "$(<"$project_root/$file")" ]]; then
    return
  fi

  if [[ -z $present ]] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    find_python
    say "Making a virtual environment in $venv with $("$python" --version 2>&1)"
    "$python" -m venv "$venv" || fail "no virtual environment could be made in $venv"
    present=$(python_version "$venv/bin/python")
    mark=$venv/installed/$present/$file
  fi
  say "Installing $file into $venv (once, and again when that file changes)"
  "$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --require-hashes \
    --requirement "$project_root/$file" >&2 || fail "the packages of $file could not be installed, see above"
  mkdir -p -- "${mark%/*}"
  cp -- "$project_root/$file" "$mark"
}

has_mariadb() (
  PATH=$PATH:/usr/sbin:/usr/local/sbin
  command -v mariadbd >/dev/null && command -v mariadb-install-db >/dev/null && command -v mariadb >/dev/null
)

# Installs MariaDB where that is missing and root may; else says what to do. Tests start servers of their own from its
# programs: Debian's two packages of them bring no service.
prepare_mariadb() {
  ! has_mariadb || return 0
  local packages=(mariadb-server-core mariadb-client-core)
  if [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
    say "Installing ${packages[*]} (once)"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update >&2 || say "the lists of packages could not be renewed"
    apt-get -qq -y --no-install-recommends install "${packages[@]}" >&2 || fail "MariaDB could not be installed, see above"
  fi
  has_mariadb || fail "MariaDB is missing. Install it (Debian, Ubuntu: apt-get install ${packages[*]};" \
    "Fedora: dnf install mariadb-server; macOS: brew install mariadb)"
}
