#!/bin/sh
# Train all models that come along, set their thresholds on their own mocks, and put them into the
# package:
#
#     sh pipelines/models/make.sh [FOLDER]
#
# Wants a checkout that is installed with `pip install -e`. Stopped, the same command goes on.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:-models}"
out=$(cd "${1:-models}" && pwd)

for name in lsst-g lsst-i euclid-vis kids-gri rgb-composite; do
  lensfinder run "$here/$name.toml" -o "$out/$name" --set "report.write_model=$out/$name/train"
  python "$here/publish.py" "$out/$name/train/products/model.safetensors" "$name"
done
