"""CONFIG: one TOML file, validated; the single source of every setting of a run."""

from __future__ import annotations

import difflib
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from mhe.errors import ConfigError
from models.data import DataSource
from models.inverse import MAX_CONDITION
from models.kinds import KINDS, Coupling, KindName, Loss, Schedule, Solver, Task, target_kind
from models.readers.sources import OWN_TEST
from network.link import Link

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FIRST_ARITY = 2
"""Where the arity is still to be agreed on."""

ALLOWED = {
    ("crypto", "memory_limit"): 'must be a size above 0 such as "2GiB" or "500MB"',
    ("network", "arity"): 'must be "auto" or a number of at least 1',
    ("network", "link"): 'must be a rate and a delay such as "1gbps/20ms" or "100mbps/5ms"',
    ("training", "batch"): 'must be "full" or a number of rows of at least 1',
    ("model", "interval"): "must be [low, high], two numbers with low < 0 < high",
    ("model", "hidden"): "must be a list of layer widths such as [64, 64], whole numbers of at least 1",
}
"""What is allowed, for the keys of which pydantic's own words say it badly."""

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
    may take, by what the plan foretells, in words such as "2GiB".
    """

    backend: Literal["native", "openfhe", "clear"] = "native"
    security_bits: Literal[128, 192] = 128
    statistical_bits: Annotated[int, Field(ge=30, le=256)] = 128
    message_bound: Annotated[float, Field(gt=0, le=2**20)] = 32.0
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    objective: Literal["time", "traffic", "memory"] = "time"
    memory_limit: Annotated[ByteSize, Field(gt=0)] | None = None
    ring_dim: Annotated[int, Field(ge=2**10, le=2**16)] | None = None
    scale_bits: Annotated[int, Field(ge=20, le=60)] | None = None
    first_bits: Annotated[int, Field(ge=20, le=60)] | None = None
    digits: Annotated[int, Field(ge=1)] | None = None
    limbs: Annotated[int, Field(ge=2)] | None = None

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
    statistical_bits: Annotated[int, Field(ge=30, le=128)] = 40
    precision: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    answers: Annotated[int, Field(ge=1, le=2**32)] = 100


class Config(Section):
    """A whole configuration; every party must have the same (see `check_same`), except for the folder it lies in."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    crypto: CryptoConfig = CryptoConfig()
    network: NetworkConfig = NetworkConfig()
    audit: AuditConfig = AuditConfig()
    release: ReleaseConfig = ReleaseConfig()
    _folder: Path = PrivateAttr(default_factory=Path)

    @property
    def source(self) -> DataSource:
        """The rows, with file names relative to the folder of the configuration."""
        data, target = self.data, target_kind(self.model.kind, self.model.task)
        return DataSource(data.train, data.label, data.test, data.test_fraction, data.split_seed, self._folder, target)

    @property
    def clear_twin(self) -> bool:
        """Whether everybody's rows are brought to one place, for the clear twin and the exact reference."""
        return self.source.is_common if self.audit.clear_twin is None else self.audit.clear_twin

    @property
    def canonical(self) -> str:
        """The settings as JSON with every default filled in: equal texts are equal configurations, on any machine."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> bytes:
        """16 bytes that name the configuration."""
        return hashlib.blake2b(self.canonical.encode(), digest_size=16).digest()

    def check_parties(self, n_parties: int) -> None:
        """Raise ConfigError if this configuration is not one for so many parties."""
        if self.network.root >= n_parties:
            raise ConfigError(f"[network] root = {self.network.root}: must be less than the {n_parties} parties")


def load_config(path: Path) -> Config:
    """Read and validate a configuration.

    Raises ConfigError if the file cannot be read or is not TOML, or (one line for each problem, with key, value and
    what is allowed) if a setting is not valid.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; need a configuration such as configs/pima.toml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None
    return parse_config(document, name=str(path), folder=path.parent)


def parse_config(document: Mapping[str, Any], name: str = "configuration", folder: Path = Path()) -> Config:
    """Validate settings that are already a dictionary of sections; raises ConfigError as `load_config` does."""
    try:
        config = Config.model_validate(dict(document))
    except ValidationError as error:
        lines = dict.fromkeys(_explain(problem) for problem in error.errors())
        raise ConfigError("\n".join(f"{name}: {line}" for line in lines)) from None
    problems = _unread(config) or _unimplemented(config)
    if problems:
        raise ConfigError("\n".join(f"{name}: {line}" for line in problems))
    config._folder = folder
    return config


def _unread(config: Config) -> list[str]:
    """Settings that are given but read by nobody, or needed and not given: not the model that was meant."""
    model, training, problems = config.model, config.training, []
    kind = KINDS[model.kind]
    for key in [key for key in ModelConfig.model_fields if key in model.model_fields_set - {"kind", "loss", "l2"}]:
        if key not in kind.reads:
            readers = " or ".join(_shown(name) for name, other in KINDS.items() if key in other.reads)
            problems.append(
                f"[model] {key}: is not read by kind = {_shown(model.kind)}, only by {readers}; leave it away"
            )
    if config.data.standardize and "mean_square" in config.data.model_fields_set:
        problems.append("[data] mean_square: is read only with standardize = false, else it is 1; leave it away")
    if model.kind == "mlp" and not model.hidden:
        problems.append('[model] hidden: is missing; kind = "mlp" needs the widths of its hidden layers')
    if model.loss != "auto" and model.loss not in kind.losses:
        allowed = ", ".join(map(_shown, ("auto", *kind.losses)))
        problems.append(f"[model] loss = {_shown(model.loss)}: kind = {_shown(model.kind)} allows {allowed}")
    if model.coupling == "quadratic":
        problems += [
            f'[model] {key}: is not read with coupling = "quadratic", which is a polynomial itself; leave it away'
            for key in ("degree", "method")
            if key in model.model_fields_set
        ]
    if model.standardises_target and model.loss == "cross_entropy":
        problems.append('[model] loss = "cross_entropy": is of classes; task = "regression" allows "auto", "squared"')
    if model.standardises_target and not config.data.standardize:
        problems.append('[data] standardize = false: task = "regression" needs a standardised label; leave it away')
    named = (
        ("momentum", "solver", ("nesterov",)),
        ("condition", "solver", ("newton",)),
        ("local_iterations", "solver", ("local",)),
        ("decay", "schedule", ("inverse", "exponential")),
    )
    for key, needs, values in named:
        if key in training.model_fields_set and getattr(training, needs) not in values:
            got, allowed = getattr(training, needs), " or ".join(map(_shown, values))
            problems.append(f"[training] {key}: is read only with {needs} = {allowed}; got {_shown(got)}")
    if training.solver == "newton":
        for key in ("learning_rate", "batch", "schedule"):
            if key in training.model_fields_set and getattr(training, key) != _default(key):
                problems.append(
                    f'[training] {key}: is not read by solver = "newton", whose steps the inverse Hessian of all rows '
                    "makes; leave it away"
                )
        if not config.data.standardize:
            problems.append('[data] standardize = false: solver = "newton" needs standardised columns; leave it away')
    audit, probed = config.audit, [name for name, other in KINDS.items() if "interval" in other.reads]
    if audit.range_every is not None and model.kind not in probed:
        problems.append(
            f"[audit] range_every: is not read by kind = {_shown(model.kind)}, only by "
            f"{' or '.join(map(_shown, probed))}; leave it away"
        )
    if audit.range_every is not None and audit.range_every > training.iterations:
        problems.append(
            f"[audit] range_every = {audit.range_every}: is never reached in {training.iterations} iterations; take a "
            "smaller number"
        )
    if audit.range_every is None and "range_action" in audit.model_fields_set:
        problems.append("[audit] range_action: is read only with range_every; give it, or leave range_action away")
    release = config.release
    if "answers" in release.model_fields_set and release.what != "encrypted":
        problems.append(f'[release] answers: is read only with what = "encrypted"; got {_shown(release.what)}')
    if release.what == "encrypted" and config.crypto.backend == "clear":
        problems.append('[release] what = "encrypted": a simulation encrypts nothing; use backend = "native"')
    return problems


def _default(key: str) -> object:
    return TrainingConfig.model_fields[key].default


def _unimplemented(config: Config) -> list[str]:
    """What models.kinds does not list as implemented."""
    model, training, kind = config.model, config.training, KINDS[config.model.kind]
    if not kind.solvers:
        there = ", ".join(_shown(name) for name, other in KINDS.items() if other.solvers)
        return [f"[model] kind = {_shown(model.kind)}: is not implemented yet; implemented: {there}"]
    if training.solver in kind.solvers:
        return []
    return [
        f"[training] solver = {_shown(training.solver)}: is not implemented yet for kind = {_shown(model.kind)}; "
        f"implemented: {', '.join(map(_shown, kind.solvers))}"
    ]


def check_same(canonicals: Sequence[str]) -> None:
    """Raise ConfigError naming the settings in which the parties' canonical configurations (by rank) differ."""
    first = _flat(json.loads(canonicals[0]))
    for rank, text in enumerate(canonicals):
        if text == canonicals[0]:
            continue
        other = _flat(json.loads(text))
        keys = [key for key in first.keys() | other.keys() if first.get(key) != other.get(key)]
        said = "; ".join(
            f"{key} is {_shown(first.get(key))} at party 0, {_shown(other.get(key))} at party {rank}"
            for key in sorted(keys)
        )
        raise ConfigError(f"the parties' configurations differ: {said}. All must be the same")


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {f"[{section}] {key}": value for section, keys in settings.items() for key, value in keys.items()}


def _shown(value: object) -> str:
    return json.dumps(value, default=str)


def _explain(problem: Any) -> str:
    """One of pydantic's problems as a sentence: key, value, what is allowed."""
    keys = [str(part) for part in problem["loc"][:2]]
    where = _where(keys)
    if problem["type"] == "extra_forbidden":
        return f"{where}: there is no such {'key' if len(keys) > 1 else 'section'}; {_allowed(keys)}"
    if problem["type"] == "missing" and len(problem["loc"]) < 3:
        return f"{where}: is missing and has no default"
    if problem["type"] == "model_type":
        return f"{where}: must be a section with keys; got {_shown(problem['input'])}"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if len(keys) < 2:
        return f"{where}: {message}"
    # of an entry that is missing, pydantic shows the list
    inside = () if problem["type"] == "missing" else problem["loc"][2:]
    place = "".join(f"[{part}]" for part in inside if isinstance(part, int))
    return f"{where}{place} = {_shown(problem['input'])}: {ALLOWED.get((keys[0], keys[1]), message)}"


def _where(keys: Sequence[str]) -> str:
    return f"[{keys[0]}]" + "".join(f" {key}" for key in keys[1:]) if keys else "the file"


def _allowed(keys: Sequence[str]) -> str:
    model: type[BaseModel] = Config if len(keys) < 2 else _section(keys[0])
    near = difflib.get_close_matches(keys[-1], model.model_fields, n=1)
    return (f"did you mean {near[0]}? " if near else "") + f"Allowed: {', '.join(model.model_fields)}"


def _section(name: str) -> type[Section]:
    section = Config.model_fields[name].annotation
    assert isinstance(section, type) and issubclass(section, Section)
    return section
