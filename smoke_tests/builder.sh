#!/usr/bin/env bash
# Smoke test of a builder: clone, build the whole book, then one chapter with another value.
#
#     smoke_tests/builder.sh [SET]
#
# SET is the parameter set of the first build, smoke by default. Takes minutes.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
set=${1:-smoke}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
fail() { echo "$*" >&2; exit 1; }

git clone -q "$root" "$place/book"
cd "$place/book"
make book PARAMS="$set" | tee "$place/first.log"
test -f _build/html/index.html || fail "the first build left no pages"
test -z "$(git status --porcelain)" || fail "the build changed the checkout"

echo "--- another value, as on the page 'How to run it'"
cat > notebooks/params/mine.yaml <<'YAML'
cell_timeout: 900
common:
  seed: 1
  data_root: data/mini-1
  train_clips: 400
  val_clips: 100
  test_clips: 100
notebooks:
  01_task_and_data:
    max_frames: 8
YAML
make book PARAMS=mine ONLY=01_task_and_data | tee "$place/second.log"
test "$(grep -c '^    done  ' "$place/second.log")" = 1 || fail "more than one chapter ran"
grep -q '^    done  01_task_and_data' "$place/second.log" || fail "another chapter ran"
grep -q '<code>mine</code>\|parameters <code[^>]*><span class="pre">mine' \
  _build/html/notebooks/01_task_and_data.html || fail "the page does not name its parameters"
test "$(find _build/html/notebooks -name '*.html' | wc -l)" = \
  "$(find notebooks -maxdepth 1 -name '*.ipynb' | wc -l)" || fail "pages are missing"

echo "--- an unknown parameter"
sed -i 's/max_frames: 8/max_frame: 8/' notebooks/params/mine.yaml
if make book PARAMS=mine ONLY=01_task_and_data 2> "$place/third.log"; then
  fail "an unknown parameter was accepted"
fi
grep -m 1 max_frame "$place/third.log" || fail "the error does not name the parameter"

echo "--- nothing changed"
start=$(date +%s)
make book PARAMS="$set" > "$place/fourth.log"
echo "the set $set again: $(grep -c '^    done  ' "$place/fourth.log") chapter ran," \
  "$(($(date +%s) - start)) s"
