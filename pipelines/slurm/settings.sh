# What all jobs of a chain share. Edit the lines up to "nothing to edit".

# The pipeline file, and the folder for what comes out of it, on a file system that all nodes share.
PIPELINE=$HOME/lensfinder/pipelines/quickstart.toml
OUTPUT=$HOME/lensfinder-quickstart

# What a job needs before it finds lensfinder: modules, a virtual environment.
# module load cuda
. "$HOME/lensfinder/.venv/bin/activate"

# The network between the nodes, where it is not the one that the host's name stands for.
# export GLOO_SOCKET_IFNAME=ib0 NCCL_SOCKET_IFNAME=ib0

# ---- nothing to edit below --------------------------------------------------------------------

# srun takes no notice of the job's own since Slurm 22.05.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

# The time limit's signal is for the step; this shell only waits for what the step makes of it.
trap : TERM USR1

# step OPTIONS-OF-SRUN -- COMMAND: run the one step of a job and end with its exit code. Slurm
# may run a job again from its beginning: what is proven done is not done again.
step() {
  local tasks=() code=0
  while [ "$1" != -- ]; do
    tasks+=("$1")
    shift
  done
  shift
  srun "${tasks[@]}" "$@" || code=$?
  # 75: stopped by a signal, all that is done is kept.
  if [ "$code" = 75 ]; then
    scontrol requeue "$SLURM_JOB_ID" || true
  fi
  # 3: some units are bad; the report tells, and the others go on.
  [ "$code" != 3 ] || code=0
  exit "$code"
}
