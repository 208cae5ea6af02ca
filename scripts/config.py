"""CONFIG: one TOML file, validated; the single source of every setting of a run."""

from __future__ import annotations

import difflib
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, PrivateAttr, ValidationError

from mhe.errors import ConfigError
from models.data import DataSource
from models.kinds import target_kind
from scripts.contradictions import shown, unimplemented, unread
from scripts.sections import ALLOWED, Section, Sections

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Config(Sections):
    """A whole configuration; every party must have the same (see `check_same`), except for the folder it lies in."""

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
    problems = unread(config) or unimplemented(config)
    if problems:
        raise ConfigError("\n".join(f"{name}: {line}" for line in problems))
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
            f"{key} is {shown(first.get(key))} at party 0, {shown(other.get(key))} at party {rank}"
            for key in sorted(keys)
        )
        raise ConfigError(f"the parties' configurations differ: {said}. All must be the same")


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {f"[{section}] {key}": value for section, keys in settings.items() for key, value in keys.items()}


def _explain(problem: Any) -> str:
    """One of pydantic's problems as a sentence: key, value, what is allowed."""
    keys = [str(part) for part in problem["loc"][:2]]
    where = _where(keys)
    if problem["type"] == "extra_forbidden":
        return f"{where}: there is no such {'key' if len(keys) > 1 else 'section'}; {_allowed(keys)}"
    if problem["type"] == "missing" and len(problem["loc"]) < 3:
        return f"{where}: is missing and has no default"
    if problem["type"] == "model_type":
        return f"{where}: must be a section with keys; got {shown(problem['input'])}"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if len(keys) < 2:
        return f"{where}: {message}"
    # of an entry that is missing, pydantic shows the list
    inside = () if problem["type"] == "missing" else problem["loc"][2:]
    place = "".join(f"[{part}]" for part in inside if isinstance(part, int))
    return f"{where}{place} = {shown(problem['input'])}: {ALLOWED.get((keys[0], keys[1]), message)}"


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
