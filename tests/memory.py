"""Everything that can be reached from Python objects, and a search for numbers in it or in messages."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType, GeneratorType, ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

WINDOW = 32
"""So many consecutive values of a secret are looked for; whoever holds a whole polynomial holds these."""

_LEAVES = (str, int, float, complex, bool, type(None), type, ModuleType, CodeType)
"""Not followed. Classes and modules, and the globals of functions, are the program, the same for all parties of a
process; what they reach beyond it are caches of public tables (roots of unity, rings, templates). What a function has
of its own, its closure and its defaults, is followed.
"""


def reachable(roots: Iterable[Any], stop: tuple[type, ...] = ()) -> list[Any]:
    """All objects that the roots lead to, themselves included, but for objects of the types `stop`."""
    found: dict[int, Any] = {}
    waiting = list(roots)
    while waiting:
        item = waiting.pop()
        if id(item) in found or isinstance(item, stop):
            continue
        found[id(item)] = item
        if isinstance(item, FunctionType):
            waiting += [item.__closure__, item.__defaults__, item.__kwdefaults__]
        elif isinstance(item, FrameType):
            waiting += item.f_locals.values()
        elif isinstance(item, GeneratorType):
            waiting += [] if item.gi_frame is None else item.gi_frame.f_locals.values()
        elif isinstance(item, np.ndarray):
            # of plain numbers the garbage collector knows nothing; of objects it does
            waiting += [item.base] if item.base is not None else []
            waiting += item.ravel().tolist() if item.dtype == object else []
        elif isinstance(item, memoryview):
            waiting.append(item.obj)
        elif not isinstance(item, _LEAVES):
            waiting += gc.get_referents(item)
    return list(found.values())


def contents(objects: Iterable[Any]) -> list[bytes]:
    """The raw bytes of every array, buffer, text and sequence of numbers among these objects."""
    out: list[bytes] = []
    loose: list[float] = []
    for item in objects:
        if isinstance(item, np.ndarray):
            if item.dtype != object:
                out.append(item.tobytes())
        elif isinstance(item, (bytes, bytearray, memoryview)):
            out.append(bytes(item))
        elif isinstance(item, str):
            out.append(item.encode(errors="replace"))
        elif isinstance(item, (float, np.floating)):
            loose.append(float(item))
        elif isinstance(item, (list, tuple)) and len(item) >= WINDOW:
            out += _numbers(item)
    return [*out, np.array(loose).tobytes()]


def _numbers(items: Sequence[Any]) -> list[bytes]:
    if all(isinstance(v, (int, np.integer)) for v in items):
        unsigned = all(0 <= int(v) < 2**64 for v in items)
        signed = all(-(2**63) <= int(v) < 2**63 for v in items)
        return [np.array(items, dtype=np.uint64 if unsigned else np.int64).tobytes()] if unsigned or signed else []
    return [np.array(items, dtype=float).tobytes()] if all(isinstance(v, float) for v in items) else []


@dataclass(frozen=True)
class Needle:
    """Bytes that must not be somewhere, and what they are."""

    what: str
    data: bytes


def search(needles: Sequence[Needle], haystacks: Iterable[bytes]) -> set[str]:
    """What was found, of all the needles, anywhere in the haystacks, at any offset."""
    found: set[str] = set()
    by_word: dict[int, list[tuple[int, Needle]]] = {}
    others = []
    for needle in needles:
        place = _rare_word(needle.data)
        if place is None:
            others.append(needle)
        else:
            word = int.from_bytes(needle.data[place : place + 8], "little")
            by_word.setdefault(word, []).append((place, needle))
    joined = b"\0".join(haystacks)
    index = np.array(sorted(by_word), dtype="<u8")
    for offset in range(8 if by_word else 0):
        view = np.frombuffer(joined, dtype="<u8", offset=offset, count=(len(joined) - offset) // 8)
        nearest = np.minimum(np.searchsorted(index, view), len(index) - 1)
        for hit in np.flatnonzero(index[nearest] == view).tolist():
            for place, needle in by_word[int(view[hit])]:
                start = offset + 8 * hit - place
                if start >= 0 and joined.startswith(needle.data, start):
                    found.add(needle.what)
    return found | {needle.what for needle in others if needle.data in joined}


def _rare_word(data: bytes) -> int | None:
    """Where in these bytes there is a word by which to find them: one that is no small number of either sign."""
    words = np.frombuffer(data, dtype="<u8", count=len(data) // 8)
    rare = np.flatnonzero((words > 2**32) & (words < np.uint64(2**64 - 2**32)))
    return 8 * int(rare[0]) if len(rare) else None


def forms_of_integers(
    what: str, values: npt.NDArray[np.int64], residues: Mapping[str, npt.NDArray[np.uint64]]
) -> list[Needle]:
    """The first values as integers and floats of every width, and of the given rows of residues, by name."""
    first = values[:WINDOW]
    kinds = ("<i1", "<i2", "<i4", "<i8", "<f4", "<f8")
    needles = [Needle(what, np.ascontiguousarray(first.astype(kind)).tobytes()) for kind in kinds]
    needles += [Needle(what, row[:WINDOW].tobytes()) for rows in residues.values() for row in rows]
    if any(len(set(needle.data)) < 2 for needle in needles):
        raise ValueError(f"{what}: a form is constant, and would be found everywhere")
    return needles
