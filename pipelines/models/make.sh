#!/bin/sh
# Train all models that come along, set their thresholds on their own mocks, and put them into the
# package:
#
#     sh pipelines/models/make.sh [FOLDER]
#
# Wants a checkout, and an environment with lensfinder. Stopped, the same command goes on.
set -eu
here=$(dirname "$0")
out=${1:-models}

for name in lsst-g kids-gri rgb-composite; do
  lensfinder run "$here/$name.toml" -o "$out/$name"
  lensfinder report "$out/$name/infer-mocks" -o "$out/$name/report" --fpr 1e-1,1e-2,1e-3 \
    --write-model "$out/$name/train" -q
  cp "$out/$name/train/products/model.safetensors" "$here/../../lensfinder/models/$name.safetensors"
done
