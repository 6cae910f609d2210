"""What a spec says of training: `TrainingSettings` decides the weights, `Execution` where and how fast they are made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sftfilter.config import Settings

Count = Annotated[int, Field(gt=0)]


class Lora(Settings):
    """Low-rank adapters (Hu et al. 2021) on the named modules; the checkpoint holds them merged and apart."""

    kind: Literal["lora"] = "lora"
    rank: Annotated[int, Field(gt=0)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32
    targets: str | list[str] = "all-linear"
    top_layers: Annotated[
        int | None,
        Field(
            gt=0,
            description="screening: adapters on so many upper layers only; on CPUs, below zero_stage 3, what lies below is "
            "computed once for all arms of Llama, Qwen2 and Mistral models",
        ),
    ] = None


class Full(Settings):
    """Every weight is trained."""

    kind: Literal["full"] = "full"


class Exports(Settings):
    """Checkpoints in between, kept inside the student's artifact: whole models, for a trait over steps."""

    every_steps: Annotated[int, Field(gt=0)]
    keep: Annotated[int | None, Field(gt=0, description="the best by `metric`; null keeps all")] = None
    metric: Annotated[
        str,
        Field(
            description="least is best: 'loss' is the mean training loss of the steps since the export before it; an "
            "experiment may name one of its traits, of which every export is then asked while training goes on"
        ),
    ] = "loss"

    @property
    def by_trait(self) -> bool:
        """Whether the best is told by a trait's rate."""
        return self.metric != "loss"


class TrainingSettings(Settings):
    """How students are trained. What changes results is hashed; `execution` is where and how fast it runs."""

    method: Annotated[Lora | Full, Field(discriminator="kind")] = Lora()
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    warmup_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    epochs: Annotated[
        float | None, Field(gt=0, description="passes over the rows; 2 unless another budget is given")
    ] = None
    steps: Annotated[int | None, Field(gt=0, description="instead of epochs: optimizer steps")] = None
    supervised_tokens: Annotated[
        int | None, Field(gt=0, description="instead of epochs: stop after the step that reaches so many")
    ] = None
    batch: Annotated[int, Field(gt=0, description="rows in an optimizer step, over all workers")] = 8
    loss_on: Annotated[
        Literal["assistant", "completion"],
        Field(
            description="every assistant turn of a row, or its last one alone (the completion that teachers differ in)"
        ),
    ] = "assistant"
    max_length: Annotated[int, Field(gt=0, description="tokens a row may have; longer ones are refused")] = 2048
    precision: Literal["bf16", "fp32"] = "bf16"
    exports: Annotated[Exports | None, Field(description="checkpoints in between")] = None

    @model_validator(mode="after")
    def _one_budget(self) -> TrainingSettings:
        given = [name for name in ("epochs", "steps", "supervised_tokens") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"training has {' and '.join(given)}: give one of epochs, steps, supervised_tokens")
        return self


class Tracking(Settings):
    """Where curves go: loss, learning rate, gradient norm, tokens/s, model FLOPs utilisation, memory, data wait."""

    tensorboard: Annotated[bool, Field(description="event files below <results>/<name>/tensorboard")] = True
    mlflow: Annotated[str | None, Field(description="name of an MLflow experiment (pip install mlflow)")] = None
    mlflow_uri: Annotated[str | None, Field(description="its server; default: MLFLOW_TRACKING_URI")] = None
    wandb: Annotated[str | None, Field(description="project of Weights & Biases (pip install wandb)")] = None


class Execution(Settings):
    """Workers and memory. Students are the same whatever these are, within float error."""

    workers: Annotated[
        Count | tuple[Count, Count],
        Field(
            description="a number, or [fewest, most]: go on with fewer when a node is lost, with more when one joins"
        ),
    ] = 2
    use_gpu: bool = False
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1
    zero_stage: Annotated[
        Literal[0, 1, 2, 3],
        Field(
            description="DeepSpeed's: 1 shards optimizer states, 2 gradients as well, 3 parameters as well, from loading to "
            "export: a model need not fit a worker's device, but the first worker's host while it is loaded and exported"
        ),
    ] = 2
    offload: Annotated[
        Literal["none", "optimizer", "all"],
        Field(description="kept in the host's memory: optimizer states, or parameters as well (zero_stage 3)"),
    ] = "none"
    micro_batch_tokens: Annotated[int, Field(gt=0, description="tokens packed into one forward pass")] = 4096
    gradient_checkpointing: bool = False
    states_gib: Annotated[
        float,
        Field(ge=0, description="disk for the states below the adapters of a screening; beyond it they are recomputed"),
    ] = 8
    max_failures: Annotated[
        int, Field(ge=0, description="worker crashes survived; an arm goes on from its last checkpoint")
    ] = 3
    start_timeout_s: Annotated[
        int,
        Field(
            gt=0,
            description="seconds that training waits for a fixed number of workers, all waits of a run together; a range "
            "of them waits for its fewest without end",
        ),
    ] = 21600
    checkpoint_every_s: Annotated[
        float | None, Field(gt=0, description="seconds between checkpoints within an arm; null for none")
    ] = 600
    checkpoint_every_steps: Annotated[
        int | None, Field(gt=0, description="steps between checkpoints within an arm, besides checkpoint_every_s")
    ] = None
    ask_exports: Annotated[
        bool,
        Field(
            description="ask checkpoints in between (training.exports of an experiment) for the traits while training "
            "goes on, not after it: their rates show as they come. On CPUs answering takes its share of them"
        ),
    ] = False
    checkpoints: Annotated[
        str | None, Field(description="s3://, gs:// or shared folder for checkpoints within an arm; default: `results`")
    ] = None
    collective_timeout_s: Annotated[
        int, Field(gt=0, description="seconds that workers wait for one that does not answer")
    ] = 1800

    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _consistent(self) -> Execution:
        if self.fewest_workers > self.most_workers:
            raise ValueError(f"workers: [{self.fewest_workers}, {self.most_workers}] has more at least than at most")
        if self.offload != "none" and not self.use_gpu:
            raise ValueError("offload keeps states out of a GPU's memory: it needs use_gpu: true")
        if self.offload == "all" and self.zero_stage != 3:
            raise ValueError(f"offload: all needs zero_stage: 3, which shards parameters; it is {self.zero_stage}")
        if self.offload == "optimizer" and self.zero_stage == 0:
            raise ValueError("offload: optimizer needs zero_stage 1, 2 or 3")
        return self

    @property
    def fewest_workers(self) -> int:
        """Workers without which training does not start."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """Workers that training uses when it can have them."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]
