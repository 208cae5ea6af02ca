"""CONFIG: one TOML file, validated; the single source of every setting of a run."""

from __future__ import annotations

import difflib
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from mhe.errors import ConfigError
from models.data import DataSource

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ALLOWED = {
    ("training", "batch"): 'must be "full" or a number of rows of at least 1',
    ("model", "sigmoid_interval"): "must be [low, high], two numbers with low < 0 < high",
}
"""What is allowed, for the keys of which pydantic's own words say it badly."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """A table of the file: immutable, no unknown keys, no silent conversion of one type to another."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataConfig(Section):
    """[data]: the tables and how they are divided; see models.data.DataSource."""

    train: Annotated[str, Field(min_length=1)]
    label: Annotated[str, Field(min_length=1)]
    test: Annotated[str, Field(min_length=1)] | None = None
    test_fraction: Annotated[float, Field(ge=0, le=0.9)] = 0.2
    split_seed: Seed = 0
    standardize: bool = True

    @model_validator(mode="after")
    def _one_kind_of_test(self) -> DataConfig:
        if self.test is not None and "test_fraction" in self.model_fields_set:
            raise ValueError("give either test or test_fraction, not both")
        return self


class ModelConfig(Section):
    """[model]: the three keys of the sigmoid choose the polynomial; l2 multiplies |w|^2 / 2 beside the mean loss."""

    kind: Literal["logistic"] = "logistic"
    sigmoid_degree: Annotated[int, Field(ge=1, le=31)] = 3
    sigmoid_interval: Annotated[tuple[float, float], Field(strict=False)] = (-8.0, 8.0)
    sigmoid_method: Literal["least_squares", "minimax"] = "least_squares"
    l2: Annotated[float, Field(ge=0)] = 0.0

    @field_validator("sigmoid_interval")
    @classmethod
    def _around_zero(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < 0 < value[1]:
            raise ValueError(ALLOWED["model", "sigmoid_interval"])
        return value


class TrainingConfig(Section):
    """[training]: learning_rate multiplies the gradient of the mean loss; momentum 0 is plain gradient descent."""

    iterations: Annotated[int, Field(ge=1)] = 20
    learning_rate: Annotated[float, Field(gt=0)] = 0.5
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    batch: Literal["full"] | Annotated[int, Field(ge=1)] = "full"
    seed: Seed = 0


class CryptoConfig(Section):
    """[crypto]: the security asked for. What is None, the plan chooses.

    statistical_bits: how well the masks of a refresh hide the message. message_bound: largest absolute weight assumed.
    threads: of each party's native evaluator.
    """

    backend: Literal["openfhe", "native", "clear"] = "openfhe"
    security_bits: Literal[128, 192] = 128
    statistical_bits: Annotated[int, Field(ge=30, le=256)] = 128
    message_bound: Annotated[float, Field(gt=0, le=2**20)] = 32.0
    threads: Annotated[int, Field(ge=1, le=256)] = 1
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
    """[network]: the tree of the parties."""

    arity: Annotated[int, Field(ge=1)] = 2
    root: Annotated[int, Field(ge=0)] = 0


class AuditConfig(Section):
    """[audit]: clear_twin None means: only where one common table was divided for a demonstration."""

    clear_twin: bool | None = None


class ReleaseConfig(Section):
    """[release]: what is decrypted at the end, under statistical_bits of smudging.

    precision: largest error of a weight that is asked for; the plan says what it reaches, and misses it by 10 at most.
    """

    what: Literal["model", "predictions", "nothing"] = "model"
    statistical_bits: Annotated[int, Field(ge=30, le=128)] = 40
    precision: Annotated[float, Field(gt=0, lt=1)] = 1e-3


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
        data = self.data
        return DataSource(data.train, data.label, data.test, data.test_fraction, data.split_seed, self._folder)

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
    config._folder = folder
    return config


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
    return f"{where} = {_shown(problem['input'])}: {ALLOWED.get((keys[0], keys[1]), message)}"


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
