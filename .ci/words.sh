#!/usr/bin/env bash
# Fail where a word is used that the project has a plainer one for: see words.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
# Left out: the list itself, old names in the changelog, stored results, and the seeds of
# a generator, whose text decides the hard negatives of the stored runs.
if git grep -niwE -f .ci/words.txt -- . ':!.ci' ':!CHANGELOG.md' ':!book/results' |
  grep -v 'random\.Random(f"glscl sibling'; then
  echo "Use the standard term of the field instead (CONTRIBUTING.md, Code)." >&2
  exit 1
fi
