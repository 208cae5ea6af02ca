"""`Tree`: who adds up whose shares. Pure arithmetic on ranks."""

from __future__ import annotations

from dataclasses import dataclass

from mhe.errors import ConfigError


@dataclass(frozen=True)
class Tree:
    """The complete k-ary tree over ranks 0 .. n_parties-1, rotated so that `root` is its root.

    In the order root, root+1, ... (modulo n_parties) the party at position p has the children at positions
    arity*p + 1 .. arity*p + arity, as in a heap. Raises ConfigError if n_parties, arity or root do not fit.
    """

    n_parties: int
    arity: int = 2
    root: int = 0

    def __post_init__(self) -> None:
        if self.n_parties < 1 or self.arity < 1:
            raise ConfigError(f"a tree of {self.n_parties} parties and arity {self.arity}; need at least 1 of each")
        if not 0 <= self.root < self.n_parties:
            raise ConfigError(f"the root is party {self.root}; need one of 0 .. {self.n_parties - 1}")

    def parent(self, rank: int) -> int | None:
        """Who receives from this party on the way up; None for the root."""
        position = self._position(rank)
        return self._rank((position - 1) // self.arity) if position else None

    def children(self, rank: int) -> tuple[int, ...]:
        """Who sends to this party on the way up."""
        first = self.arity * self._position(rank) + 1
        return tuple(self._rank(p) for p in range(first, min(first + self.arity, self.n_parties)))

    def subtree(self, rank: int) -> tuple[int, ...]:
        """This party, then the subtree of each of its children."""
        members, ahead = list[int](), [rank]
        while ahead:
            members.append(ahead.pop())
            ahead += reversed(self.children(members[-1]))
        return tuple(members)

    @property
    def depth(self) -> int:
        """Edges between the root and the party farthest from it: hops of one pass."""
        position, depth = self.n_parties - 1, 0
        while position:
            position, depth = (position - 1) // self.arity, depth + 1
        return depth

    def _position(self, rank: int) -> int:
        if not 0 <= rank < self.n_parties:
            raise ConfigError(f"party {rank} is not in a tree of {self.n_parties}; need 0 .. {self.n_parties - 1}")
        return (rank - self.root) % self.n_parties

    def _rank(self, position: int) -> int:
        return (position + self.root) % self.n_parties


MOST_CHILDREN = 8
"""Up to here every arity is worth a look, beyond only those that make a tree less deep."""


def sensible_arities(n_parties: int) -> tuple[int, ...]:
    """Arities of which one is best for so many parties, whatever hops and children cost: all small ones, and of the
    larger ones the smallest of each depth; a larger one of the same depth gives some party more children for nothing.
    """
    depths = {arity: Tree(n_parties, arity).depth for arity in range(1, max(n_parties, 2))}
    first = dict[int, int]()
    for arity, depth in depths.items():
        first.setdefault(depth, arity)
    return tuple(arity for arity, depth in depths.items() if arity <= MOST_CHILDREN or first[depth] == arity)
