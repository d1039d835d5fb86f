#!/bin/bash
# Submit a whole chain, each job waiting for those whose products it reads. Run it in this folder:
#
#     ./chain.sh
#
# Edit: settings.sh, and what each of the .sbatch files says. For the sky by Dask instead of an
# array, see infer-dask.sbatch. To go on after a failure, run it again: what is done stays.
# `lensfinder run PIPELINE.toml --engine slurm` does the same without these files.
set -eu
cd "$(dirname "$0")"

submit() { sbatch --parsable --kill-on-invalid-dep=yes "$@"; }

# array STAGE DEPENDENCIES FILE ARGUMENTS: an array and the job that merges it; prints the latter.
array() {
  local stage=$1 after=$2 job
  shift 2
  job=$(submit --job-name="$stage" ${after:+--dependency="$after"} "$@")
  submit --job-name="$stage-finish" --dependency="${after:+$after,}afterany:$job" finish.sbatch "$stage"
}

cutout=$(array cutout "" cutout.sbatch)
simulate=$(array simulate "" simulate.sbatch)
train=$(submit --dependency="afterok:$simulate" train.sbatch)
mocks=$(array infer-mocks "afterok:$simulate:$train" infer.sbatch infer-mocks)
sky=$(array infer-sky "afterok:$cutout:$train" infer.sbatch infer-sky)
report=$(submit --dependency="afterok:$mocks:$sky" report.sbatch)
echo "submitted; the last job is $report. Follow with: squeue --me, lensfinder status OUTPUT"
