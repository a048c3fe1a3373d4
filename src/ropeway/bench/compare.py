"""Measure layouts in turn: bring one up, ask one question, send the load, take it down."""

import asyncio
import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

from ropeway.bench.comparison import Comparison, LayoutResult
from ropeway.bench.figures import Summary
from ropeway.bench.load_test import Conditions, LoadTest
from ropeway.bench.measure import measure
from ropeway.bench.prompts import Recipe
from ropeway.bench.record import TIMINGS, read_timings, recorded, without_answer, write_json
from ropeway.bench.run import prepare
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.client import Client
from ropeway.endpoint.request import Request
from ropeway.endpoint.stream import Timing
from ropeway.errors import EndpointError, HostError, LaunchError, LayoutError
from ropeway.phrases import joined
from ropeway.spec.model import Layout
from ropeway.units import counted

# Every model that can answer knows this one, and anyone can see whether the answer is right.
QUESTION = "What is the capital of France?"

NOTES = (
    "The chip is virtual: ranks are processes that share this machine's cores, so more NPUs bring"
    " no more arithmetic here; what differs between layouts is communication and waiting.",
    "Not verified on NPU hardware.",
)


@dataclass(frozen=True)
class Served:
    """A layout that serves. `start_s`: from the first command to the first token."""

    endpoint: Endpoint
    model: str
    start_s: float


Serve = Callable[[Layout, Path], AbstractContextManager[Served]]
"""Brings a layout up, with its logs in the folder, and takes it down at the end.

Raises LayoutError when the layout cannot run, LaunchError or HostError when it does not start.
"""


class Step(Protocol):
    """One piece of work that is shown while it runs."""

    def tick(self, detail: str) -> None: ...
    def ok(self, closing: str) -> None: ...


class Screen(Protocol):
    """Where the user sees what happens; `report.console.Screen` is one."""

    def step(self, name: str) -> AbstractContextManager[Step]: ...
    def warn(self, text: str) -> None: ...


@dataclass
class ComparisonRun:
    """A comparison under way. What was measured stays when a later layout fails.

    hosts_of          the number of hosts that a layout takes
    results, timings  of the layouts so far; the timings by layout, of those that were measured
    """

    load: LoadTest
    engine: str
    hardware: str
    hosts_of: Callable[[Layout], int]
    folder: Path
    screen: Screen
    results: list[LayoutResult] = field(default_factory=list)
    timings: dict[str, Sequence[Timing]] = field(default_factory=dict)
    recipe: Recipe | None = None
    conditions: Conditions | None = None

    def measure(self, layout: Layout, serve: Serve) -> LayoutResult:
        """Measure one layout. One that cannot run, or that fails, is a result too."""
        folder = self.folder / str(layout).replace("×", "-").replace("+", "-").lower()
        result = LayoutResult(
            layout=str(layout),
            npus=layout.npus,
            hosts=self.hosts_of(layout),
            status="ok",
            run_dir=str(self.folder),
        )
        start_s = None
        try:
            with serve(layout, folder) as served:
                start_s = served.start_s
                answer = self._ask(served)
                summary = self._send_load(served, layout, folder)
        except LayoutError as error:
            result = replace(result, status="refused", error=joined(error.evidence))
        except (LaunchError, EndpointError, HostError) as error:
            self.screen.warn(f"{layout}: {error.what}")
            result = replace(result, status="failed", error=error.what)
        else:
            result = replace(result, answer=answer, summary=summary)
        return self._keep(replace(result, start_s=start_s))

    def write(self, command: Sequence[str], baseline: Layout | None) -> Comparison | None:
        """Write comparison.json and return its content; None when nothing was measured."""
        if self.conditions is None:
            return None
        comparison = Comparison(
            model=self.conditions.model,
            engine=self.engine,
            hardware=self.hardware,
            load=self.conditions.load,
            started_at=self.conditions.started_at,
            results=tuple(self.results),
            baseline=str(baseline) if baseline else None,
            command=shlex.join(command),
            ropeway=self.conditions.ropeway,
            notes=NOTES,
        ).with_answers_compared()
        with recorded(self.folder):
            write_json(self.folder / "comparison.json", asdict(comparison))
        return comparison

    def _ask(self, served: Served) -> str:
        with self.screen.step(f"ask “{QUESTION}”") as step:
            answer = asyncio.run(_answer(served)).strip()
            step.ok(answer)
        return answer

    def _send_load(self, served: Served, layout: Layout, folder: Path) -> Summary:
        endpoint, model = served.endpoint, served.model
        if self.recipe is None:
            _, self.recipe = asyncio.run(prepare(endpoint, model, self.load, answers=True))
        conditions = Conditions(
            load=self.load.with_recipe(self.recipe),
            url=endpoint.url,
            model=model,
            layout=str(layout),
            engine=self.engine,
            hardware=self.hardware,
        )
        name = (
            f"{counted(self.load.requests, 'request')} from {counted(self.load.clients, 'client')}"
        )
        with self.screen.step(name) as step:
            measured = measure(
                endpoint,
                conditions,
                self.recipe,
                folder,
                on_progress=lambda progress: step.tick(str(progress)),
            )
            if measured.failure:
                raise measured.failure
            summary = measured.figures.summary
            step.ok(f"{summary.output_tokens_per_s:.1f} output tokens/s")
        self.conditions = self.conditions or conditions
        timings = read_timings(folder / TIMINGS)
        self.timings[str(layout)] = [without_answer(one) for one in timings]
        return summary

    def _keep(self, result: LayoutResult) -> LayoutResult:
        self.results.append(result)
        line = json.dumps(asdict(result), ensure_ascii=False)
        with (
            recorded(self.folder),
            (self.folder / "results.jsonl").open("a", encoding="utf-8") as file,
        ):
            file.write(line + "\n")
        return result


async def _answer(served: Served) -> str:
    messages = ({"role": "user", "content": QUESTION},)
    request = Request(served.model, messages, max_tokens=32, temperature=0.0)
    async with Client(served.endpoint) as client:
        return (await client.ask(request)).text
