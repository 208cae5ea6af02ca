"""What papers report, with their hardware: beside it stand our figures, measured on another machine.

What is compared is the task: our one machine does the work of all parties, theirs had machines for each.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One figure of one paper. job: the name of our record of the same task, where there is one."""

    work: str
    task: str
    parties: str
    hardware: str
    figure: str
    job: str | None = None


PUBLISHED = (
    Published(
        "SPINDLE (arXiv 2005.09532)",
        "logistic regression, 1,000,000 rows x 32 features, whole training",
        "160",
        "a cluster, data providers on servers of their own",
        "less than three minutes",
        "million",
    ),
    Published(
        "POSEIDON (arXiv 2009.00349)",
        "MNIST 784-64-64-10, whole training",
        "10",
        "10 servers of 12 cores, 1 Gbps, 20 ms",
        "5,283 s, 89.9 %",
        "mnist",
    ),
    Published(
        "PriCell",
        "growth with parties at fixed rows of each, 3 to 48",
        "3 to 48",
        "a cluster",
        "28.7 s to 37.1 s (1.29 times)",
        "parties",
    ),
    Published(
        "PriCell",
        "growth with features, 8 to 128",
        "-",
        "a cluster",
        "57 s to 77 s (1.35 times)",
        "features",
    ),
)
