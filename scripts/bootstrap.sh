#!/bin/sh
# Run scripts/bootstrap.py with the first Python 3 that works: the project's own, one on PATH, or
# one of pyenv's (whose shims on PATH may be broken).
cd "$(dirname "$0")/.." || exit 1
for python in .venv/bin/python python3 python "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3*/bin/python; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 6))' >/dev/null 2>&1; then
        exec "$python" scripts/bootstrap.py
    fi
done
echo 'setup failed: no Python 3 was found. Install one (Debian, Ubuntu: sudo apt install' \
    'python3 python3-pip) and run make again' >&2
exit 1
