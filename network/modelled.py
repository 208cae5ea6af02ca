"""Wall time as it would be with every party on a machine of its own, from what was recorded of a run on one machine.

Every party's CPU seconds between and inside its passes over the tree are replayed on clocks of its own, and messages
take the time that a `Link` gives them. What a party does while it waits for others is nothing; machines are as fast as
the one of the recording.
"""

from __future__ import annotations

from collections.abc import Sequence

from mhe.collective import Transfer
from mhe.errors import NetworkError
from network.link import Link
from network.metrics import Pass
from network.topology import Tree


def modelled_seconds(link: Link, tree: Tree, passes: Sequence[Sequence[Pass]]) -> dict[str, float]:
    """Seconds by phase, from the passes of every party, by rank: by how much the latest clock moves on in it.

    What happens between two passes counts for the phase of the later one. Raises NetworkError unless all parties
    recorded the same passes.
    """
    if len({tuple((each.phase, each.what) for each in own) for own in passes}) != 1 or len(passes) != tree.n_parties:
        raise NetworkError(f"the recorded passes of {len(passes)} parties differ; need those of one run of all")
    clocks, spent, seconds = [0.0] * tree.n_parties, [0.0] * tree.n_parties, dict[str, float]()
    for step in zip(*passes, strict=True):
        before = max(clocks)
        ready = [clock + own.before - cpu for clock, own, cpu in zip(clocks, step, spent, strict=True)]
        what = step[0].what
        if isinstance(what, Transfer):
            arrived = link.after(tree, what, ready)
        else:
            arrived = link.after_allgather(tree, what, ready)
        clocks = [clock + own.after - own.before for clock, own in zip(arrived, step, strict=True)]
        spent = [own.after for own in step]
        seconds[step[0].phase] = seconds.get(step[0].phase, 0.0) + max(clocks) - before
    return seconds
