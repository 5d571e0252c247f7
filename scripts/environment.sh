# Sourced by the other scripts: makes .venv beside this folder and installs the project into it.
# `environment demo` installs what the demo needs, `environment test` everything.
# Set PYTHON to choose the interpreter (3.11 to 3.13).

set -euo pipefail
unset PYTHONDONTWRITEBYTECODE # else each of hundreds of processes compiles the same modules again
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "Error: no Python 3.11, 3.12 or 3.13 with the venv module was found." >&2
  echo "Hint: install one (Debian: apt-get install python3 python3-venv) or set PYTHON to its path." >&2
  exit 1
}

environment() {
  local extras stamp mark
  case "$1" in
    demo) extras="export" ;;
    test) extras="all,dev,docs" ;;
  esac
  mark=".venv/.installed-$1"
  [ "$1" = demo ] && [ -f .venv/.installed-test ] && mark=".venv/.installed-test"
  stamp="$(cat pyproject.toml scripts/constraints.txt scripts/environment.sh | cksum)"
  if [ -x .venv/bin/tbps ] && [ "$(cat "$mark" 2>/dev/null)" = "$stamp" ]; then
    return
  fi
  echo "Installing into .venv (the first time this downloads PyTorch and takes a few minutes)..." >&2
  [ -x .venv/bin/python ] || "$(find_python)" -m venv .venv
  # Of 17,000 modules a few thousand are ever imported: each is compiled when it is, not one after another here.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
    --constraint scripts/constraints.txt --editable ".[$extras]"
  echo "$stamp" > "$mark"
}
