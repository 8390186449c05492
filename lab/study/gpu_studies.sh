#!/usr/bin/env bash
# Runs the studies in lab/studies/larger, whose results nobody has, on one CUDA GPU, the most important cells first, within a
# time budget.
#
#     lab/study/gpu_studies.sh DATA_ROOT OUT [--seconds N] [--jobs N]
#
# DATA_ROOT holds the data sets (bccd, voc07_mini, camvid, imagenette128; digits is made there). OUT/results gets one JSON
# file a cell. After an end at the budget or by force, the same command goes on where it stopped. Exit code 0 when every
# cell has a result, else 1.
set -uo pipefail
usage() { sed -n '2,9s/^# \{0,1\}//p' "$0"; }
[[ ${1-} == -h || ${1-} == --help ]] && usage && exit 0
[[ $# -ge 2 ]] || { usage >&2; exit 2; }
data=$1 out=$2 seconds=86400 jobs=12
shift 2
while [[ $# -gt 0 ]]; do
    case $1 in
        --seconds) seconds=${2:?--seconds needs a number} && shift 2 ;;
        --jobs) jobs=${2:?--jobs needs a number} && shift 2 ;;
        *) echo "unknown argument $1" >&2; usage >&2; exit 2 ;;
    esac
done
root=$(cd "$(dirname "$0")/../.." && pwd) || exit 2
export PYTHONPATH="$root/src:$root${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=1

left=0
# study:part of the cells' names, "" for all of it
for part in detection:tracked segmentation:tracked classification:tracked detection:voc07_mini-pst-plain \
    detection:voc07_mini-pan- segmentation: detection:bccd-pst- detection:voc07_mini- classification: torchvision: \
    detection:; do
    study=${part%%:*} rest=$((seconds - SECONDS))
    [[ $rest -gt 0 ]] || { echo "no time left for $part" >&2; left=1; continue; }
    "${PYTHON:-python3}" -m lab study run "$root/lab/studies/larger/$study.yaml" --data-root "$data" --out "$out" \
        --filter "${part#*:}" --jobs "$jobs" --deadline "$rest" --device cuda || left=1
done
exit "$left"
