"""Processes that measure at the same time, as parties on one machine work at the same time.

A process is `python -m MODULE`, whose main calls `serve`: it says something when it is ready, and for every number that
it reads it makes one measurement and answers with a line of JSON. All start a measurement when the last one has ended
the one before. They are started anew, never forked: threads of numerical libraries do not survive that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from mhe.errors import BackendError

MOST_PROCESSES = 8
"""At once, however many cores there are: each of them holds keys and ciphertexts of all rings, half a gigabyte."""

ENDING_SECONDS = 10.0
"""What a process may take to end when it is told to, before it is killed."""


class Workers(AbstractContextManager["Workers"]):
    """Processes that measure in step, until the block ends. count: by default one for each core. ready: what each said
    before its first measurement.
    """

    def __init__(self, module: str, count: int | None = None) -> None:
        self.count = min(os.cpu_count() or 1, MOST_PROCESSES) if count is None else count
        command = [sys.executable, "-m", module]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(self.count)]  # type: ignore[call-overload]
        try:
            self.ready = [self._answer(process) for process in self._processes]
        except BaseException:
            self._end()
            raise

    def round(self, places: Iterable[int]) -> list[list[Any]]:
        """What each process answers to each of these numbers, one after the other: by number, then by process.

        Raises BackendError if a process has ended.
        """
        return [self._at_once(place) for place in places]

    def _at_once(self, place: int) -> list[Any]:
        for process in self._processes:
            assert process.stdin is not None
            print(place, file=process.stdin, flush=True)
        return [self._answer(process) for process in self._processes]

    @staticmethod
    def _answer(process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise BackendError(f"a process that measures ended with code {process.wait()}; its message is above")
        return json.loads(line)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        for process in self._processes:
            try:
                process.wait(ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def serve(ready: Any, answer: Callable[[int], Any]) -> None:
    """The other end: in the main of the module. Returns when there is nothing more to measure."""
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(int(line))), flush=True)
