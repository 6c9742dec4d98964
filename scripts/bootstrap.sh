#!/bin/sh
# Run scripts/bootstrap.py with the first Python 3 that works: the project's own, any on PATH (a
# broken shim may hide a good one further on), or one of pyenv's.
cd "$(dirname "$0")/.." || exit 1

# -S: the standard library is enough, and starts in a third of the time.
attempt() {
    if [ -x "$1" ] && "$1" -S -c 'import sys; sys.exit(sys.version_info < (3, 6))' >/dev/null 2>&1; then
        exec "$1" -S scripts/bootstrap.py
    fi
}

attempt .venv/bin/python
folders=$PATH
while [ -n "$folders" ]; do
    attempt "${folders%%:*}/python3"
    attempt "${folders%%:*}/python"
    case $folders in
        *:*) folders=${folders#*:} ;;
        *) folders= ;;
    esac
done
for python in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3*/bin/python; do
    attempt "$python"
done
echo 'setup failed: no Python 3 was found. Install one (Debian, Ubuntu: sudo apt install' \
    'python3 python3-pip) and run make again' >&2
exit 1
