#!/bin/sh
# Train all models that come along, set their thresholds on their own mocks, and put them into the
# package:
#
#     sh pipelines/models/make.sh [FOLDER]
#
# Takes a checkout and an environment with lensfinder; stopped, the same command goes on.
set -eu
here=$(dirname "$0")
out=${1:-models}

make_model() { # name, pipeline, options of `lensfinder run`
  name=$1 pipeline=$2
  shift 2
  lensfinder run "$pipeline" -o "$out/$name" "$@"
  lensfinder report "$out/$name/infer-mocks" -o "$out/$name/report" \
    --write-model "$out/$name/train" --fpr 1e-1,1e-2,1e-3 -q
  cp "$out/$name"/train/products/*.safetensors "$here/../../lensfinder/models/$name.safetensors"
}

make_model lsst-g "$here/../deeplens.toml" --set train.network=lensnet \
  --set train.epochs=60 --set train.schedule=cosine --set train.optimizer=adamw
make_model kids-gri "$here/kids-gri.toml"
make_model rgb-composite "$here/rgb-composite.toml"
