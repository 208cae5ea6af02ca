"""`Share`: what a party contributes to a protocol, and the one way to add two of them up.

Every collective protocol here is a sum: rows of residues, one modulus per row, added over the parties.
Hence one share type, one aggregate function and one wire format serve all of them; the tree of parties
needs to know nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mhe.errors import ShareError

Rows = npt.NDArray[np.uint64] | npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Share:
    """A sum of contributions to one protocol instance.

    protocol: the protocol's name, for example "refresh".
    instance: digest that names the one run of the protocol this belongs to (session, protocol, input).
    contributors: ranks of the parties whose contributions are in the sum.
    moduli: one modulus per row; empty for the float64 rows of the clear backend.
    rows: (n_rows, n_columns), uint64 below the row's modulus, or float64.
    """

    protocol: str
    instance: bytes
    contributors: frozenset[int]
    moduli: tuple[int, ...]
    rows: Rows

    def __post_init__(self) -> None:
        if self.rows.ndim != 2:
            raise ShareError(f"{self.protocol}: rows have {self.rows.ndim} axes; need 2 (row, column)")
        if self.moduli and (len(self.moduli) != len(self.rows) or self.rows.dtype != np.uint64):
            raise ShareError(
                f"{self.protocol}: {len(self.moduli)} moduli for {len(self.rows)} rows of {self.rows.dtype}; "
                "need uint64 rows and one modulus each"
            )

    def __repr__(self) -> str:
        who = ",".join(map(str, sorted(self.contributors)))
        return f"Share({self.protocol}, instance={self.instance.hex()[:8]}, from={{{who}}}, rows={self.rows.shape})"


def aggregate(a: Share, b: Share) -> Share:
    """Sum of two shares of one protocol instance; associative, commutative, inputs unchanged.

    Raises ShareError if they belong to different instances or have a contributor in common.
    """
    check_mergeable(a, b)
    return Share(a.protocol, a.instance, a.contributors | b.contributors, a.moduli, add(a.rows, b.rows, a.moduli))


def add(a: Rows, b: Rows, moduli: tuple[int, ...]) -> Rows:
    """Row-wise sum of two blocks of rows, modulo one modulus per row (plain for float64)."""
    if not moduli:
        return a + b
    # Importing numba takes a second, which whoever only reads messages' sizes need not pay.
    from mhe.ring.modular import add_rows

    return add_rows(a, b, np.array(moduli, dtype=np.uint64))


def check_mergeable(a: Share, b: Share) -> None:
    """Raise ShareError unless the two shares may be added up."""
    check_alike(a, b)
    both = a.contributors & b.contributors
    if both:
        raise ShareError(f"{a.protocol}: parties {sorted(both)} contributed twice; a share may be added only once")


def check_alike(a: Share, b: Share) -> None:
    """Raise ShareError unless the two shares are of one protocol instance, shape and type."""
    if (a.protocol, a.instance) != (b.protocol, b.instance):
        raise ShareError(f"shares of different protocol instances: {a!r} and {b!r}; every party must run the same step")
    if (a.moduli, a.rows.shape, a.rows.dtype) != (b.moduli, b.rows.shape, b.rows.dtype):
        raise ShareError(
            f"shares of different shape, type or moduli in {a.protocol}: {a.rows.shape} of {a.rows.dtype} and "
            f"{b.rows.shape} of {b.rows.dtype}; every party must run the same step with the same parameters"
        )


def check_complete(total: Share, protocol: str, instance: bytes, n_parties: int) -> None:
    """Raise ShareError unless `total` holds exactly one contribution of each of the n parties to this instance."""
    if total.protocol != protocol or total.instance != instance:
        raise ShareError(f"got a total of {total!r}; need {protocol} instance {instance.hex()[:8]}")
    missing = set(range(n_parties)) - total.contributors
    foreign = total.contributors - set(range(n_parties))
    if missing or foreign:
        raise ShareError(
            f"{protocol}: contributions of parties {sorted(missing)} are missing and {sorted(foreign)} are foreign; "
            f"need exactly one from each of {n_parties}"
        )


def check_reduced(share: Share) -> None:
    """Raise ShareError if a residue is not below its modulus (a corrupted message)."""
    if share.moduli:
        from mhe.ring.modular import first_unreduced_row

        bad = first_unreduced_row(share.rows, np.array(share.moduli, dtype=np.uint64))
        if bad >= 0:
            raise ShareError(
                f"{share.protocol}: row {bad} holds a residue not below its modulus; the message is corrupted"
            )
