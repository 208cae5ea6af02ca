"""Settings that are valid one by one, but not together: read by nobody, missing, or not implemented."""

from __future__ import annotations

import json

from models.kinds import KINDS
from scripts.sections import ModelConfig, Sections, TrainingConfig


def unread(config: Sections) -> list[str]:
    """Settings that are given but read by nobody, or needed and not given: not the model that was meant."""
    model, training, problems = config.model, config.training, []
    kind = KINDS[model.kind]
    for key in [key for key in ModelConfig.model_fields if key in model.model_fields_set - {"kind", "loss", "l2"}]:
        if key not in kind.reads:
            readers = " or ".join(shown(name) for name, other in KINDS.items() if key in other.reads)
            problems.append(
                f"[model] {key}: is not read by kind = {shown(model.kind)}, only by {readers}; leave it away"
            )
    if config.data.standardize and "mean_square" in config.data.model_fields_set:
        problems.append("[data] mean_square: is read only with standardize = false, else it is 1; leave it away")
    if model.kind == "mlp" and not model.hidden:
        problems.append('[model] hidden: is missing; kind = "mlp" needs the widths of its hidden layers')
    if model.loss != "auto" and model.loss not in kind.losses:
        allowed = ", ".join(map(shown, ("auto", *kind.losses)))
        problems.append(f"[model] loss = {shown(model.loss)}: kind = {shown(model.kind)} allows {allowed}")
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
            got, allowed = getattr(training, needs), " or ".join(map(shown, values))
            problems.append(f"[training] {key}: is read only with {needs} = {allowed}; got {shown(got)}")
    if training.solver == "newton":
        for key in ("learning_rate", "batch", "schedule"):
            if key in training.model_fields_set and getattr(training, key) != _default(key):
                problems.append(
                    f'[training] {key}: is not read by solver = "newton", whose steps the inverse Hessian of all rows '
                    "makes; leave it away"
                )
        if not config.data.standardize:
            problems.append('[data] standardize = false: solver = "newton" needs standardised columns; leave it away')
    if config.crypto.refresh is not None and not kind.places:
        readers = " or ".join(shown(name) for name, other in KINDS.items() if other.places)
        problems.append(
            f"[crypto] refresh: is not read by kind = {shown(model.kind)}, which refreshes its weights alone, only by "
            f"{readers}; leave it away"
        )
    audit, probed = config.audit, [name for name, other in KINDS.items() if "interval" in other.reads]
    if audit.range_every is not None and model.kind not in probed:
        problems.append(
            f"[audit] range_every: is not read by kind = {shown(model.kind)}, only by "
            f"{' or '.join(map(shown, probed))}; leave it away"
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
        problems.append(f'[release] answers: is read only with what = "encrypted"; got {shown(release.what)}')
    if release.what == "encrypted" and config.crypto.backend == "clear":
        problems.append('[release] what = "encrypted": a simulation encrypts nothing; use backend = "native"')
    return problems


def _default(key: str) -> object:
    return TrainingConfig.model_fields[key].default


def unimplemented(config: Sections) -> list[str]:
    """What models.kinds does not list as implemented."""
    model, training, kind = config.model, config.training, KINDS[config.model.kind]
    if not kind.solvers:
        there = ", ".join(shown(name) for name, other in KINDS.items() if other.solvers)
        return [f"[model] kind = {shown(model.kind)}: is not implemented yet; implemented: {there}"]
    if training.solver in kind.solvers:
        return []
    return [
        f"[training] solver = {shown(training.solver)}: is not implemented yet for kind = {shown(model.kind)}; "
        f"implemented: {', '.join(map(shown, kind.solvers))}"
    ]


def shown(value: object) -> str:
    """As it stands in the file."""
    return json.dumps(value, default=str)
