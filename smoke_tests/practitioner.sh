#!/usr/bin/env bash
# Smoke test of a practitioner: the package alone in an empty environment, its
# demonstration, the code of the README, and a search in a folder of videos, one of which
# is broken.
#
#     smoke_tests/practitioner.sh [PYTHON]
#
# The models are those of the package, so that none has to be downloaded.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${1:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
fail() { echo "$*" >&2; exit 1; }

git clone -q "$root" "$place/source"
"$python" -m venv "$place/venv"
"$place/venv/bin/pip" install -q -c "$root/constraints.txt" "$place/source"
export PATH="$place/venv/bin:$PATH"
mkdir "$place/work"
cd "$place/work"

echo "--- the demonstration, with nothing but the package"
time glscl demo
"$place/venv/bin/pip" install -q -c "$root/constraints.txt" "$place/source[search]"
python -c 'import importlib.util as u, sys; sys.exit(any(map(u.find_spec, ["papermill", "matplotlib"])))' ||
  fail "the package installs the book's packages, too"

echo "--- the Python code of the README"
glscl data make --root clips --train 10 --val 5 --test 5
cp clips/clips/test-00000.mp4 video.mp4
awk '/^```python$/ {code = 1; next} /^```$/ {code = 0} code' "$place/source/README.md" > lines.py
python lines.py

echo "--- a folder of videos, one of them truncated"
mkdir videos
cp clips/clips/test-*.mp4 videos
head -c 2000 video.mp4 > videos/broken.mp4
glscl index videos --model mini 2> log
cat log
grep -q 'skipped broken.mp4' log || fail "the broken video was not named"
glscl search "a red circle moves left" --k 3
glscl index videos 2> /dev/null | grep '^0 added, 0 changed, 0 removed, 5 unchanged' ||
  fail "the second index did not find everything unchanged"

echo "--- wrong commands fail with one sentence"
for wrong in "index nowhere" "search x --index nowhere" "search --index video-index"; do
  if glscl $wrong > log 2>&1; then fail "glscl $wrong: no error"; fi
  grep -q Traceback log && fail "glscl $wrong: a traceback"
  tail -n 1 log
done
