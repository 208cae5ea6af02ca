"""CONFIG: defaults, every refusal in words that name key, value and remedy, and comparison between parties."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import scripts.contradictions
from mhe.errors import ConfigError
from models.kinds import KINDS
from scripts.config import Config, check_same, load_config, parse_config

DATA = {"train": "x.csv", "label": "y"}
EXAMPLES = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))


def refusal(**sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config({"data": DATA} | sections, name="c.toml")
    return str(caught.value)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_valid(path: Path) -> None:
    assert load_config(path).source.is_common


def test_the_commented_example_has_every_key() -> None:
    text = (Path(__file__).parents[2] / "configs" / "pima.toml").read_text()
    for section, field in Config.model_fields.items():
        assert f"[{section}]" in text
        for key in getattr(field.annotation, "model_fields", {}):
            assert f"\n{key} = " in text or f"\n# {key} = " in text, key


def test_defaults() -> None:
    config = parse_config({"data": DATA})
    assert (config.data.test, config.data.test_fraction, config.data.standardize) == (None, 0.2, True)
    assert (config.model.kind, config.model.loss, config.model.hidden) == ("logistic", "auto", ())
    assert (config.model.degree, config.model.interval, config.model.l2) == (3, (-8.0, 8.0), 0.0)
    assert (config.training.solver, config.training.schedule) == ("nesterov", "constant")
    assert (config.training.iterations, config.training.batch, config.training.momentum) == (20, "full", 0.5)
    assert (config.crypto.backend, config.crypto.security_bits, config.crypto.statistical_bits) == ("native", 128, 128)
    assert (config.crypto.ring_dim, config.crypto.message_bound, config.crypto.threads) == (None, 32.0, 1)
    assert (config.network.arity, config.network.root) == (2, 0)
    assert (config.audit.clear_twin, config.audit.range_every, config.audit.range_action) == (None, None, "warn")
    assert (config.release.what, config.release.statistical_bits, config.release.precision) == ("model", 40, 1e-3)


def test_configuration_cannot_be_changed() -> None:
    config = parse_config({"data": DATA})
    with pytest.raises(ValidationError):
        config.training.iterations = 3  # type: ignore[misc]


def test_twin_only_where_one_table_was_split() -> None:
    own = {"train": "site{party}.csv", "label": "y"}
    assert parse_config({"data": DATA}).clear_twin
    assert not parse_config({"data": own}).clear_twin
    assert parse_config({"data": own, "audit": {"clear_twin": True}}).clear_twin
    assert not parse_config({"data": DATA, "audit": {"clear_twin": False}}).clear_twin


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("training", "iterations", 0, "greater than or equal to 1"),
        ("training", "iterations", "20", "integer"),
        ("training", "iterations", True, "integer"),
        ("training", "learning_rate", -0.5, "greater than 0"),
        ("training", "learning_rate", float("nan"), "finite"),
        ("training", "momentum", 1.0, "less than 1"),
        ("training", "batch", "half", '"full" or a number'),
        ("training", "batch", 0, '"full" or a number'),
        ("model", "kind", "forest", "'logistic'"),
        ("model", "hidden", 64, "list of layer widths"),
        ("model", "activation", "relu", "'square', 'sigmoid', 'softplus' or 'tanh'"),
        ("model", "loss", "hinge", "'squared'"),
        ("training", "solver", "adam", "'newton' or 'local'"),
        ("training", "schedule", "step", "'exponential' or 'cosine'"),
        ("training", "decay", 0, "greater than 0"),
        ("training", "local_iterations", 0, "greater than or equal to 1"),
        ("model", "interval", [1, 8], "low < 0 < high"),
        ("model", "interval", [-8], "low < 0 < high"),
        ("model", "degree", 99, "31"),
        ("crypto", "backend", "seal", "'openfhe' or 'clear'"),
        ("crypto", "security_bits", 100, "128 or 192"),
        ("crypto", "ring_dim", 5000, "power of two"),
        ("crypto", "statistical_bits", 10, "30"),
        ("network", "arity", 0, '"auto" or a number of at least 1'),
        ("network", "arity", "most", '"auto" or a number of at least 1'),
        ("network", "link", "fast", '"1gbps/20ms"'),
        ("crypto", "memory_limit", "much", '"2GiB"'),
        ("crypto", "memory_limit", "0", '"2GiB"'),
        ("audit", "clear_twin", "yes", "boolean"),
        ("audit", "range_every", 0, "greater than or equal to 1"),
        ("audit", "range_action", "panic", "'warn' or 'stop'"),
        ("release", "what", "all", "'model', 'predictions', 'encrypted' or 'nothing'"),
        ("release", "precision", 0, "greater than 0"),
    ],
)
def test_bad_value_names_key_value_and_what_is_allowed(section: str, key: str, value: object, words: str) -> None:
    said = refusal(**{section: {key: value}})
    assert said.startswith(f"c.toml: [{section}] {key} = {json.dumps(value)}: must be ")
    assert words in said


def test_bad_entry_of_a_list_is_numbered() -> None:
    assert "[model] hidden[1] = 0: must be a list of layer widths" in refusal(model={"kind": "mlp", "hidden": [64, 0]})


def test_typing_errors_get_the_nearest_key() -> None:
    said = refusal(training={"iteratoins": 3})
    assert "[training] iteratoins: there is no such key; did you mean iterations?" in said
    said = refusal(trainnig={"iterations": 3})
    assert "[trainnig]: there is no such section; did you mean training?" in said


def test_every_problem_gets_a_line() -> None:
    said = refusal(data={"train": "x.csv"}, training={"seed": -1, "speed": 1}, network=3)
    assert [line.split(":")[1].strip() for line in said.splitlines()] == [
        "[data] label",
        "[training] seed = -1",
        "[training] speed",
        "[network]",
    ]


def test_sizes_of_memory_are_bytes_in_any_unit() -> None:
    sizes = [parse_config({"data": DATA, "crypto": {"memory_limit": text}}) for text in ("2GiB", "2048 MiB")]
    assert sizes[0].crypto.memory_limit == 1 << 31
    assert sizes[0].canonical == sizes[1].canonical
    assert parse_config({"data": DATA}).crypto.memory_limit is None


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_every_kind_stay_encrypted(kind: str) -> None:
    model = {"kind": kind} | ({"hidden": [8]} if kind == "mlp" else {})
    assert parse_config({"data": DATA, "model": model, "release": {"what": "encrypted"}}).release.what == "encrypted"


def test_what_only_an_encrypted_model_reads_is_refused_elsewhere() -> None:
    assert '[release] answers: is read only with what = "encrypted"' in refusal(data=DATA, release={"answers": 3})
    said = refusal(data=DATA, release={"what": "encrypted"}, crypto={"backend": "clear"})
    assert "a simulation encrypts nothing" in said


def test_numbers_are_a_task_of_perceptrons_alone() -> None:
    mlp = {"kind": "mlp", "hidden": [4], "task": "regression"}
    assert parse_config({"data": DATA, "model": mlp}).source.target == "real"
    assert parse_config({"data": DATA, "model": {**mlp, "task": "classification"}}).source.target == "classes"
    assert '[model] task: is not read by kind = "logistic", only by "mlp"' in refusal(model={"task": "regression"})
    assert "must be 'classification' or 'regression'" in refusal(model={**mlp, "task": "ranking"})
    said = refusal(model={**mlp, "loss": "cross_entropy"})
    assert '[model] loss = "cross_entropy": is of classes' in said
    said = refusal(model=mlp, data={**DATA, "standardize": False})
    assert 'task = "regression" needs a standardised label' in said


def test_classes_are_coupled_by_softmax_alone() -> None:
    softmax = {"kind": "softmax", "coupling": "quadratic"}
    assert parse_config({"data": DATA, "model": softmax}).model.coupling == "quadratic"
    assert '[crypto] refresh: is not read by kind = "logistic"' in refusal(crypto={"refresh": []})
    assert '[model] coupling: is not read by kind = "logistic", only by "softmax"' in refusal(
        model={"coupling": "quadratic"}
    )
    assert "must be 'none' or 'quadratic'" in refusal(model={**softmax, "coupling": "cubic"})
    assert '[model] degree: is not read with coupling = "quadratic"' in refusal(model={**softmax, "degree": 3})


def test_range_probes_are_refused_where_they_would_tell_nothing() -> None:
    said = refusal(data=DATA, model={"kind": "linear"}, audit={"range_every": 1})
    assert '[audit] range_every: is not read by kind = "linear"' in said
    assert 'only by "poisson" or "logistic" or "softmax" or "mlp"; leave it away' in said
    said = refusal(data=DATA, audit={"range_every": 21})
    assert "[audit] range_every = 21: is never reached in 20 iterations" in said
    assert "[audit] range_action: is read only with range_every" in refusal(data=DATA, audit={"range_action": "stop"})
    config = parse_config({"data": DATA, "audit": {"range_every": 5, "range_action": "stop"}})
    assert (config.audit.range_every, config.audit.range_action) == (5, "stop")


def test_test_rows_come_from_one_place() -> None:
    assert "either test or test_fraction" in refusal(data=DATA | {"test": "y.csv", "test_fraction": 0.2})
    assert parse_config({"data": DATA | {"test": "y.csv"}}).source.test == "y.csv"


def test_root_must_be_a_party() -> None:
    config = parse_config({"data": DATA, "network": {"root": 2}})
    config.check_parties(3)
    with pytest.raises(ConfigError, match=r"root = 2: must be less than the 2 parties"):
        config.check_parties(2)


def test_files_start_at_the_folder_of_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[data]\ntrain = "x.csv"\nlabel = "y"\n')
    config = load_config(path)
    assert config.source.folder == tmp_path
    assert str(tmp_path) not in config.canonical


@pytest.mark.parametrize(("text", "words"), [("[data\n", "not valid TOML"), ("[data]\nx = é", "not valid TOML")])
def test_file_that_is_not_toml(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "c.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_defaults_spelled_out_are_the_same_configuration() -> None:
    short = parse_config({"data": DATA})
    long = parse_config({"data": DATA, "training": {"iterations": 20, "momentum": 0.5}, "model": {"l2": 0}})
    assert short.canonical == long.canonical
    assert short.digest == long.digest
    check_same([short.canonical, long.canonical])


def test_parties_that_differ_are_told_where() -> None:
    one = parse_config({"data": DATA})
    other = parse_config({"data": DATA, "training": {"iterations": 30}, "release": {"what": "nothing"}})
    assert one.digest != other.digest
    with pytest.raises(ConfigError) as caught:
        check_same([one.canonical, one.canonical, other.canonical])
    assert "[training] iterations is 20 at party 0, 30 at party 2" in str(caught.value)
    assert '[release] what is "model" at party 0, "nothing" at party 2' in str(caught.value)


def test_kind_that_is_not_implemented(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are: here one has no solver."""
    monkeypatch.setattr(scripts.contradictions, "KINDS", {**KINDS, "softmax": replace(KINDS["softmax"], solvers=())})
    assert refusal(model={"kind": "softmax"}) == (
        'c.toml: [model] kind = "softmax": is not implemented yet; implemented: "linear", "poisson", "logistic", "mlp"'
    )


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_that_are_implemented(kind: str) -> None:
    hidden = {"hidden": [4]} if kind == "mlp" else {}
    assert parse_config({"data": DATA, "model": {"kind": kind, **hidden}}).source.target == KINDS[kind].target


def test_solver_that_is_not_implemented() -> None:
    said = refusal(model={"kind": "softmax"}, training={"solver": "local"})
    assert '[training] solver = "local": is not implemented yet for kind = "softmax"; implemented: "nesterov", ' in said


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"data": {**DATA, "mean_square": 0.5}}, "[data] mean_square: is read only with standardize = false"),
        ({"model": {"hidden": [64]}}, '[model] hidden: is not read by kind = "logistic", only by "mlp"'),
        (
            {"model": {"kind": "linear", "degree": 3}},
            '[model] degree: is not read by kind = "linear", only by "poisson"',
        ),
        ({"model": {"kind": "mlp"}}, "[model] hidden: is missing"),
        ({"model": {"loss": "squared"}}, 'kind = "logistic" allows "auto", "cross_entropy"'),
        ({"training": {"solver": "gd", "momentum": 0.5}}, '[training] momentum: is read only with solver = "nesterov"'),
        ({"training": {"solver": "newton", "momentum": 0.5}}, '[training] momentum: is read only with solver = "nest'),
        (
            {"training": {"condition": 50.0}},
            '[training] condition: is read only with solver = "newton"; got "nesterov"',
        ),
        (
            {"training": {"local_iterations": 3}},
            '[training] local_iterations: is read only with solver = "local"; got "nesterov"',
        ),
        ({"training": {"solver": "local", "momentum": 0.5}}, '[training] momentum: is read only with solver = "nest'),
        (
            {"training": {"solver": "newton", "learning_rate": 0.1}},
            '[training] learning_rate: is not read by solver = "newton"',
        ),
        ({"training": {"solver": "newton", "batch": 10}}, '[training] batch: is not read by solver = "newton"'),
        (
            {"training": {"solver": "newton"}, "data": {**DATA, "standardize": False}},
            '[data] standardize = false: solver = "newton" needs standardised columns',
        ),
        ({"training": {"decay": 0.5}}, '[training] decay: is read only with schedule = "inverse" or "exponential"; g'),
        (
            {"training": {"decay": 0.5, "schedule": "cosine"}},
            '[training] decay: is read only with schedule = "inverse" or "exponential"; got "cosine"',
        ),
        (
            {"training": {"solver": "newton", "schedule": "cosine"}},
            '[training] schedule: is not read by solver = "newton"',
        ),
    ],
)
def test_setting_that_nobody_reads(sections: dict[str, Any], words: str) -> None:
    assert words in refusal(**sections)


def test_newton_takes_whole_steps() -> None:
    newton = parse_config({"data": DATA, "training": {"solver": "newton"}}).training
    assert (newton.momentum_used, newton.rate_used, newton.condition) == (0, 1, 300)
    assert parse_config({"data": DATA, "training": {"learning_rate": 0.25}}).training.rate_used == 0.25


def test_gradient_descent_is_without_momentum() -> None:
    assert parse_config({"data": DATA, "training": {"solver": "gd"}}).training.momentum_used == 0
    assert parse_config({"data": DATA, "training": {"momentum": 0.25}}).training.momentum_used == 0.25


def test_labels_are_what_the_kind_of_model_learns() -> None:
    assert parse_config({"data": DATA}).source.target == "binary"


def test_mnist_is_tested_on_its_own_test_rows_unless_others_are_asked_for() -> None:
    own = {"train": "builtin:mnist", "label": "label"}
    assert parse_config({"data": own}).source.test == "builtin:mnist-test"
    assert parse_config({"data": own | {"test": "y.csv"}}).source.test == "y.csv"
    fraction = parse_config({"data": own | {"test_fraction": 0.2}})
    assert fraction.source.test is None
    assert fraction.canonical != parse_config({"data": own}).canonical
