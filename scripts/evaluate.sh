#!/bin/sh
# evaluate.sh CHECKPOINT DATASET [--suite standard|quick|privacy|sequential] [--out report] [...] - evaluates a checkpoint on every label file
# of the dataset (and with --events on every task of scripts/tasks): report.html, report.json, model_card.md.  Goes on where
# it was stopped.  evaluate.sh RUN DATASET OUT RISK... makes a report of risk tables that are there already.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] && [ "$1" != --help ] && [ $# -lt 2 ] && set --
if [ $# -lt 1 ]; then
    echo "usage: scripts/evaluate.sh CHECKPOINT DATASET [--suite standard|quick|privacy|sequential] [--out report] [--events EVENTS] [--help]" >&2
    echo "   or: scripts/evaluate.sh RUN DATASET OUT RISK.csv|.h5 ... [--bootstrap N]" >&2
    exit 2
fi
python="$here/../.venv/bin/python"
[ -x "$python" ] || { echo "evaluate: no Python environment: run \`make setup\` first" >&2; exit 1; }
case $1 in
-*) exec "$python" "$here/evaluate.py" "$@" ;;
esac
run=$1 data=$2
shift 2
case ${1:--} in
-*) exec "$python" "$here/evaluate.py" --checkpoint "$run" --data "$data" "$@" ;;
esac
out=$1
shift
case ${1:--} in
-*) echo "usage: scripts/evaluate.sh RUN DATASET OUT RISK.csv|.h5 ... [--bootstrap N]" >&2; exit 2 ;;
esac
exec "$python" "$here/evaluate.py" --run "$run" --data "$data" --out "$out" "$@"
