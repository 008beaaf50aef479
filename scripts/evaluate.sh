#!/bin/sh
# evaluate.sh RUN DATASET OUT RISK... - statistics and pictures over risk tables written by `ehr-infer risk`:
# OUT/report.html, OUT/report.json.  Further flags of evaluate.py may follow.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 4 ] || { echo "usage: scripts/evaluate.sh RUN DATASET OUT RISK.csv|.h5 ... [--bootstrap N]" >&2; exit 2; }
run=$1 data=$2 out=$3
shift 3
python="$here/../.venv/bin/python"
[ -x "$python" ] || { echo "evaluate: no Python environment: run \`make setup\` first" >&2; exit 1; }
exec "$python" "$here/evaluate.py" --run "$run" --data "$data" --out "$out" "$@"
