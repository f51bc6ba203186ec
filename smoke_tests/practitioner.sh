#!/usr/bin/env bash
# A practitioner: the package alone in an empty environment, the README's code, and
# a search in a folder of videos, one of them broken.
#
#     smoke_tests/practitioner.sh [PYTHON]
#
# The model is the built-in mini CLIP, so that nothing has to be downloaded.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${1:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
fail() { echo "$*" >&2; exit 1; }

git clone -q "$root" "$place/source"
"$python" -m venv "$place/venv"
"$place/venv/bin/pip" install -q -c "$root/constraints.txt" "$place/source[search]"
export PATH="$place/venv/bin:$PATH"
mkdir "$place/work"
cd "$place/work"
python -c 'import importlib.util as u, sys; sys.exit(any(map(u.find_spec, ["papermill", "matplotlib"])))' ||
  fail "the package brings the book along"

echo "--- the README's lines of Python"
glscl data make --root clips --train 10 --val 5 --test 5
cp clips/clips/test-00000.mp4 video.mp4
awk '/^```python$/ {code = 1; next} /^```$/ {code = 0} code' "$place/source/README.md" > lines.py
python lines.py

echo "--- a folder of videos, one of them cut off"
mkdir videos
cp clips/clips/test-*.mp4 videos
head -c 2000 video.mp4 > videos/broken.mp4
glscl index videos --model mini 2> said
cat said
grep -q 'skipped broken.mp4' said || fail "the broken video was not named"
glscl search "a red circle moves left" --k 3
glscl index videos 2> /dev/null | grep '^0 added, 0 changed, 0 removed, 5 unchanged' ||
  fail "the second index did not find everything unchanged"

echo "--- what cannot work says so in a sentence"
for wrong in "index nowhere" "search x --index nowhere" "search --index video-index"; do
  if glscl $wrong > said 2>&1; then fail "glscl $wrong: no error"; fi
  grep -q Traceback said && fail "glscl $wrong: a traceback"
  tail -n 1 said
done
