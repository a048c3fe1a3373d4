"""What a comparison needs of the screen, which `report` draws."""

from contextlib import AbstractContextManager
from typing import Protocol


class Step(Protocol):
    """One piece of work that is shown while it runs."""

    def tick(self, detail: str) -> None: ...
    def ok(self, closing: str) -> None: ...


class Screen(Protocol):
    """Where the user sees what happens; `report.console.Screen` is one."""

    def step(self, name: str) -> AbstractContextManager[Step]: ...
    def say(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
