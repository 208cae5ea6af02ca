"""The passphrase under which a party's share is sealed: from the environment, or asked for."""

from __future__ import annotations

import getpass
import os
import sys

from mhe.errors import ConfigError
from mhe.sealed import PASSPHRASE_VARIABLE


def passphrase(*, none: bool, new: bool) -> str | None:
    """The passphrase, or None where the user wants none. new: asked for twice.

    Whoever asks puts it into the environment, where the ranks that it starts find it. Raises ConfigError if there is
    none and nobody to ask.
    """
    if none:
        return None
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given:
        return given
    if not sys.stdin.isatty():
        raise ConfigError(
            f"no passphrase for the parties' shares: set {PASSPHRASE_VARIABLE}, or store them unprotected with "
            "--no-passphrase"
        )
    asked = getpass.getpass("passphrase of the parties' shares: ")
    if not asked or (new and asked != getpass.getpass("once more: ")):
        raise ConfigError("the passphrase is empty, or was not the same twice; start again")
    os.environ[PASSPHRASE_VARIABLE] = asked
    return asked
