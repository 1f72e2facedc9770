#!/usr/bin/env bash
# Everything that only a CUDA machine can show, each part with a short table and a time limit of its own.
#   benchmarks/gpu.sh [tests] [bench] [posterior] [train] [table]        default: all but the table
# OUT (default: runs/gpu) receives logs and trainings, which go on from their checkpoints when called again.
# DATA names the folder of the evaluation data, on which samplers are timed; without it that part is left out.
# LABELS names a folder of label maps to train on; without it the procedural heads serve. MINUTES limits the training,
# and each training of the table, on simulated heads or on the scans in TEST.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-runs/gpu}
mkdir -p "$out"
parts=${*:-tests bench ${DATA:+posterior} train}
python -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"; print(torch.cuda.get_device_name(0))'

for part in $parts; do
  echo "== $part"
  case $part in
    tests) timeout 240 python -m pytest -q -p no:cacheprovider -k "cuda or sense or mmcg or langevin or deepen or classical" \
             2>&1 | tee "$out/tests.log" | tail -n 15 ;;
    bench) timeout 120 python benchmarks/sense_cuda.py | tee "$out/sense_cuda.md" ;;
    posterior) PYTHONPATH=. timeout 300 python -m benchmarks.posterior "${DATA:?}" --device cuda --out "$out" 2>&1 \
             | tee "$out/posterior.log" ;;
    train) mriinv train --prior deepen --out "$out/train" --device cuda --max-time "${MINUTES:-8}" \
             ${LABELS:+--heads "$LABELS"} --workers 12 --set data.fresh=2 --set trainer.batch=16 --set 'data.shape=[128,128]' \
             --set 'prior.widths=[64,128,256]' --set trainer.steps=40000 --plot 2>&1 | tee "$out/train.log"
           mriinv train --prior deepen --weights "$out/train/weights.safetensors" --out "$out/likelihood" --device cuda \
             ${LABELS:+--heads "$LABELS"} --set 'data.shape=[128,128]' --set trainer.steps=60 --set trainer.warm_start=0
           tail -n 5 "$out/train/log.csv" "$out/likelihood/log.csv" ;;
    table) mriinv benchmark table1 --out "$out/table" --device cuda --minutes "${MINUTES:-1}" \
             ${LABELS:+--train "$LABELS"} ${TEST:+--test "$TEST"} 2>&1 | tee "$out/table.log" || true  # 1: some failed
           cat "$out/table/table1.md" ;;
    *) echo "unknown part: $part" >&2; exit 2 ;;
  esac
done
