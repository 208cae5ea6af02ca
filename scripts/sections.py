"""The sections of CONFIG: every key with its type, its default and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, field_validator, model_validator

from mhe.errors import ConfigError
from models.inverse import MAX_CONDITION
from models.kinds import Coupling, KindName, Loss, Schedule, Solver, Task
from models.readers.sources import OWN_TEST
from network.link import Link

FIRST_ARITY = 2
"""Where the arity is still to be agreed on."""

ALLOWED = {
    ("crypto", "memory_limit"): 'must be a size above 0 such as "2GiB" or "500MB"',
    ("network", "arity"): 'must be "auto" or a number of at least 1',
    ("network", "link"): 'must be a rate and a delay such as "1gbps/20ms" or "100mbps/5ms"',
    ("training", "batch"): 'must be "full" or a number of rows of at least 1',
    ("model", "interval"): "must be [low, high], two numbers with low < 0 < high",
    ("crypto", "refresh"): 'must be a list of some of "inputs", "errors" and "gradients"; it may be empty',
    ("model", "hidden"): "must be a list of layer widths such as [64, 64], whole numbers of at least 1",
}
"""What is allowed, for the keys of which pydantic's own words say it badly."""

LEAST_STATISTICAL_BITS = 30

Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """A table of the file: immutable, no unknown keys, no silent conversion of one type to another."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataConfig(Section):
    """[data]: the tables and how they are divided; see models.data.DataSource.

    mean_square: of all cells of a table that is not standardised, at every party: the noise is planned for it.
    """

    train: Annotated[str, Field(min_length=1)]
    label: Annotated[str, Field(min_length=1)]
    test: Annotated[str, Field(min_length=1)] | None = None
    test_fraction: Annotated[float, Field(ge=0, le=0.9)] = 0.2
    split_seed: Seed = 0
    standardize: bool = True
    mean_square: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _own_test(cls, given: Any) -> Any:
        """A table that comes with test rows of its own is tested on these, unless others are asked for."""
        if isinstance(given, Mapping) and not given.keys() & {"test", "test_fraction"}:
            train = given.get("train")
            own = OWN_TEST.get(train) if isinstance(train, str) else None
            return given if own is None else {**given, "test": own}
        return given

    @model_validator(mode="after")
    def _one_kind_of_test(self) -> DataConfig:
        if self.test is not None and "test_fraction" in self.model_fields_set:
            raise ValueError("give either test or test_fraction, not both")
        return self


class ModelConfig(Section):
    """[model]: which kinds read which keys is said in models.kinds.

    degree, interval and method choose the polynomial in place of the nonlinear function (of `activation` in an mlp,
    whose "square" is 0.5 x + 0.125 x^2 itself); l2 multiplies |w|^2 / 2 beside the mean loss. task: what an mlp learns,
    classes or numbers. coupling: of the classes of a softmax; "quadratic" is its expansion to second order.
    """

    kind: KindName = "logistic"
    task: Task = "classification"
    hidden: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = ()
    activation: Literal["square", "sigmoid", "softplus", "tanh"] = "square"
    degree: Annotated[int, Field(ge=1, le=31)] = 3
    interval: Annotated[tuple[float, float], Field(strict=False)] = (-8.0, 8.0)
    method: Literal["least_squares", "minimax"] = "least_squares"
    coupling: Coupling = "none"
    loss: Literal["auto"] | Loss = "auto"
    l2: Annotated[float, Field(ge=0)] = 0.0

    @property
    def standardises_target(self) -> bool:
        """Whether the label is standardised as columns are: first weights are sized for outputs of that size."""
        return self.kind == "mlp" and self.task == "regression"

    @field_validator("interval")
    @classmethod
    def _around_zero(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < 0 < value[1]:
            raise ValueError(ALLOWED["model", "interval"])
        return value


class TrainingConfig(Section):
    """[training]: learning_rate multiplies the gradient of the mean loss; momentum is read by solver "nesterov".

    schedule: of learning_rate, see models.schedules; decay is read by "inverse" and "exponential". condition, of solver
    "newton" alone: how much larger than the smallest eigenvalue of the Hessian its public bound may be
    (`models.newton_plan`). local_iterations: steps of a party between two sums, of "local" alone.
    """

    solver: Solver = "nesterov"
    iterations: Annotated[int, Field(ge=1)] = 20
    learning_rate: Annotated[float, Field(gt=0)] = 0.5
    schedule: Schedule = "constant"
    decay: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    condition: Annotated[float, Field(gt=1, le=MAX_CONDITION)] = 300.0
    local_iterations: Annotated[int, Field(ge=1, le=16)] = 2
    batch: Literal["full"] | Annotated[int, Field(ge=1)] = "full"
    seed: Seed = 0

    @property
    def momentum_used(self) -> float:
        """0 for every solver that has no momentum."""
        return self.momentum if self.solver == "nesterov" else 0.0

    @property
    def rate_used(self) -> float:
        """1 for "newton", whose steps are as long as the inverse Hessian makes them."""
        return 1.0 if self.solver == "newton" else self.learning_rate


class CryptoConfig(Section):
    """[crypto]: the security asked for. What is None, the plan chooses.

    statistical_bits: how well the masks of a refresh hide the message. message_bound: largest absolute weight assumed.
    threads: of each party's native evaluator. objective: what the plan makes small. memory_limit: bytes that no party
    may take, by what the plan foretells, in words such as "2GiB". refresh: what a perceptron refreshes beside what it
    always does (`models.refresh_points`).
    """

    backend: Literal["native", "openfhe", "clear"] = "native"
    security_bits: Literal[128, 192] = 128
    statistical_bits: Annotated[int, Field(ge=LEAST_STATISTICAL_BITS, le=256)] = 128
    message_bound: Annotated[float, Field(gt=0, le=2**20)] = 32.0
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    objective: Literal["time", "traffic", "memory"] = "time"
    memory_limit: Annotated[ByteSize, Field(gt=0)] | None = None
    ring_dim: Annotated[int, Field(ge=2**10, le=2**16)] | None = None
    scale_bits: Annotated[int, Field(ge=20, le=60)] | None = None
    first_bits: Annotated[int, Field(ge=20, le=60)] | None = None
    digits: Annotated[int, Field(ge=1)] | None = None
    limbs: Annotated[int, Field(ge=2)] | None = None
    refresh: Annotated[tuple[Literal["inputs", "errors", "gradients"], ...], Field(strict=False)] | None = None

    @field_validator("refresh")
    @classmethod
    def _in_one_order(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        # so that parties who mean the same have the same settings
        return None if value is None else tuple(sorted(set(value)))

    @field_validator("ring_dim")
    @classmethod
    def _power_of_two(cls, value: int | None) -> int | None:
        if value is not None and value & (value - 1):
            raise ValueError("must be a power of two")
        return value


class NetworkConfig(Section):
    """[network]: the tree of the parties.

    arity: "auto" leaves it to the plan. link: rate and delay of the line of each party, in words such as "1gbps/20ms",
    by which plans are compared; without it, as if all parties shared the cores of one machine.
    """

    arity: Literal["auto"] | Annotated[int, Field(ge=1)] = 2
    root: Annotated[int, Field(ge=0)] = 0
    link: str | None = None

    @field_validator("link")
    @classmethod
    def _is_a_link(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                Link.parse(value)
            except ConfigError as error:
                raise ValueError(ALLOWED["network", "link"]) from error
        return value

    @property
    def first_arity(self) -> int:
        """Of the tree over which the parties agree on everything that comes before the keys, the arity included."""
        return FIRST_ARITY if self.arity == "auto" else self.arity


class AuditConfig(Section):
    """[audit]: clear_twin None means: only where one common table was divided for a demonstration.

    range_every: iterations from one range probe to the next (`models.range_probe`), None for none. range_action: what a
    run does when inputs of the polynomial may lie outside of its interval.
    """

    clear_twin: bool | None = None
    range_every: Annotated[int, Field(ge=1)] | None = None
    range_action: Literal["warn", "stop"] = "warn"


class ReleaseConfig(Section):
    """[release]: what is decrypted at the end, under statistical_bits of smudging.

    precision: largest error of a weight that is asked for; the plan says what it reaches, and misses it by 10 at most.
    answers: ciphertexts of answers that a model that stays encrypted may give in its life.
    """

    what: Literal["model", "predictions", "encrypted", "nothing"] = "model"
    statistical_bits: Annotated[int, Field(ge=LEAST_STATISTICAL_BITS, le=128)] = 40
    precision: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    answers: Annotated[int, Field(ge=1, le=2**32)] = 100


class Sections(Section):
    """One of each, as in a file."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    crypto: CryptoConfig = CryptoConfig()
    network: NetworkConfig = NetworkConfig()
    audit: AuditConfig = AuditConfig()
    release: ReleaseConfig = ReleaseConfig()
