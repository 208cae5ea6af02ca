"""The kinds of error this package raises: each message says what, got, needed and the remedy."""

from __future__ import annotations


class MHEError(Exception):
    """Base of every error that a caller can cause or act upon."""


class ParameterError(MHEError):
    """Parameters that are inconsistent, or miss the security asked for."""


class LevelError(MHEError):
    """An operation needs more limbs (levels) than the ciphertext has left."""


class ShareError(MHEError):
    """A protocol share is missing, duplicated, foreign or emitted twice."""


class KeyMismatchError(MHEError):
    """Two objects belong to different keys or parameters, or a planned key is absent."""


class CodecError(MHEError):
    """A message is truncated, corrupted, of another version or of other parameters."""


class StateError(MHEError):
    """What a party kept for later is missing, damaged, in use, or another's."""


class BackendError(MHEError):
    """An evaluator failed, or does not behave as this version of the code expects."""


class ConfigError(MHEError):
    """A configuration key, or the environment, is not usable."""


class DataError(MHEError):
    """A table cannot be trained on as it is."""


class RangeError(MHEError):
    """Values have left the range for which a computation is planned."""


class NetworkError(MHEError):
    """A party is gone, or sent something out of order."""
