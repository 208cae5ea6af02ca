"""What the root says while a run goes on: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from scripts.launch import TERMINAL_VARIABLE

LINES_PER_RUN = 10
"""How many plain lines the iterations of one run give."""


def make_console(*, quiet: bool) -> Console:
    """A console that knows whether the launcher, behind the pipe that a rank sees, writes to a terminal."""
    if quiet:
        return Console(quiet=True)
    columns = os.environ.get(TERMINAL_VARIABLE)
    if columns is None:
        return Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    return Console(force_terminal=True, width=int(columns), highlight=False)


class Reporter:
    """Phases and iterations of one run, as they happen."""

    def __init__(self, console: Console, iterations: int) -> None:
        self.console = console
        self._iterations = iterations
        self._every = max(1, iterations // LINES_PER_RUN)
        self._bar: tuple[Progress, TaskID] | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Say that a phase begins, and how long it took."""
        start = time.perf_counter()
        if self.console.is_terminal:
            with self.console.status(f"{name} ..."):
                yield
        else:
            self.console.print(f"{name} ...")
            yield
        self.console.print(f"{name}: {time.perf_counter() - start:.1f} s")

    @contextmanager
    def training(self) -> Iterator[None]:
        """Around all iterations."""
        start = time.perf_counter()
        if self.console.is_terminal:
            columns = (
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("iterations, ETA"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.console, transient=True) as progress:
                self._bar = progress, progress.add_task("training", total=self._iterations)
                yield
        else:
            yield
        self.console.print(f"training: {time.perf_counter() - start:.1f} s")

    def iteration(self, number: int, seconds: float) -> None:
        """One iteration is done."""
        if self._bar is not None:
            progress, task = self._bar
            progress.advance(task)
        elif number % self._every == 0 or number == self._iterations:
            left = (self._iterations - number) * seconds
            self.console.print(
                f"training: iteration {number} of {self._iterations}, {seconds:.2f} s each, ETA {left:.0f} s"
            )
