"""The section ``[slurm]``: what to ask Slurm for. Nothing here changes a product."""

from __future__ import annotations

from pydantic import Field, field_validator

from lensfinder.config.fields import ListedOptions, Section


class SlurmConfig(Section):
    """`--engine slurm`: jobs of a chain, and worker jobs of a single stage."""

    partition: str = Field("", description="Partition; empty: the site's default.")
    account: str = Field("", description="Account that is charged; empty: your default.")
    time: str = Field(
        "",
        description="Time limit of a job, such as 04:00:00; empty: the partition's.",
        pattern=r"^[0-9:-]*$",
    )
    cpus: int = Field(4, ge=1, le=1024, description="Cores of a job.")
    memory: str = Field("16G", description="Memory of a job.", pattern=r"^[0-9]+[KMGT]$")
    parts: int = Field(8, ge=1, le=1000, description="Tasks of a job array.")
    at_once: int = Field(0, ge=0, description="Tasks of an array at the same time; 0: no limit.")
    grace_s: int = Field(
        120,
        ge=10,
        le=3600,
        description="Seconds before the time limit at which a job saves and queues again.",
    )
    train_nodes: int = Field(1, ge=1, le=1024, description="Nodes that train together.")
    train_gpus: int = Field(
        0, ge=0, le=64, description="GPUs a node to train with, a rank each; 0: a rank a node."
    )
    options: ListedOptions = Field(
        (), description="More options of sbatch for every job, such as --qos=long."
    )
    train_options: ListedOptions = Field(
        (), description="More options of sbatch for training, such as --partition=gpu."
    )
    interface: str = Field(
        "", description="Network between scheduler and worker jobs, such as ib0; empty: any."
    )
    setup: str = Field(
        "", description="Shell lines that each job begins with, such as module load cuda."
    )

    @field_validator("partition", "account", "interface", "options", "train_options")
    @classmethod
    def _one_line(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for text in (value,) if isinstance(value, str) else value:
            if not text.isprintable() or (isinstance(value, tuple) and not text.startswith("-")):
                raise ValueError(f"{text!r}: expected what sbatch takes, such as --qos=long")
        return value
