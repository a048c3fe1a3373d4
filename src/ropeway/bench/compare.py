"""Measure layouts in turn: bring one up, ask one question, send the load, take it down."""

import asyncio
import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ropeway.bench.comparison import Comparison, LayoutResult, comparison_to_data
from ropeway.bench.load_test import Conditions, LoadTest
from ropeway.bench.measure import measure
from ropeway.bench.prompts import Recipe
from ropeway.bench.record import TIMINGS, read_timings, recorded, without_answer, write_json
from ropeway.bench.rounds import Round, how_judged, round_of, together
from ropeway.bench.run import prepare
from ropeway.bench.screen import Screen
from ropeway.bench.stats import summarise
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


@dataclass
class ComparisonRun:
    """A comparison under way. What was measured stays when a later layout fails.

    hosts_of          the number of hosts that a layout takes
    rounds            loads that each layout gets while it is up, each with prompts of its own
    results, timings  of the layouts so far; the timings by layout, of those that were measured
    """

    load: LoadTest
    engine: str
    hardware: str
    hosts_of: Callable[[Layout], int]
    folder: Path
    screen: Screen
    rounds: int = 1
    results: list[LayoutResult] = field(default_factory=list)
    timings: dict[str, Sequence[Timing]] = field(default_factory=dict)
    recipe: Recipe | None = None
    conditions: Conditions | None = None

    def measure(self, layout: Layout, serve: Serve) -> LayoutResult:
        """Measure one layout. One that cannot run, or that fails, is a result too.

        At Ctrl-C its whole rounds are kept, and the interrupt goes on.
        """
        folder = self.folder / str(layout).replace("×", "-").replace("+", "-").lower()
        result = LayoutResult(
            layout=str(layout),
            npus=layout.npus,
            hosts=self.hosts_of(layout),
            status="ok",
            run_dir=str(self.folder),
        )
        rounds: list[Round] = []
        try:
            with serve(layout, folder) as served:
                result = replace(result, start_s=served.start_s)
                answer = self._ask(served)
                self._send_loads(served, layout, folder, rounds)
        except LayoutError as error:
            result = replace(result, status="refused", error=joined(error.evidence))
        except (LaunchError, EndpointError, HostError) as error:
            self.screen.warn(f"{layout}: {error.what}")
            result = replace(result, status="failed", error=error.what)
        except KeyboardInterrupt:
            if rounds:
                self._keep(self._measured(result, answer, rounds))
            raise
        else:
            result = self._measured(result, answer, rounds)
        return self._keep(result)

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
            notes=(*NOTES, how_judged(self.rounds, turns=False)),
        ).with_answers_compared()
        with recorded(self.folder):
            write_json(self.folder / "comparison.json", comparison_to_data(comparison))
        return comparison

    def _ask(self, served: Served) -> str:
        with self.screen.step(f"ask “{QUESTION}”") as step:
            answer = asyncio.run(_answer(served)).strip()
            step.ok(answer)
        return answer

    def _send_loads(
        self, served: Served, layout: Layout, folder: Path, rounds: list[Round]
    ) -> None:
        """Add each round to `rounds` when it has ended."""
        if self.recipe is None:
            _, self.recipe = asyncio.run(
                prepare(served.endpoint, served.model, self.load, answers=True)
            )
        for number in range(self.rounds):
            load = replace(self.load, fresh=number)
            own = folder / f"round-{number + 1}" if self.rounds > 1 else folder
            rounds.append(self._send_load(served, layout, load, own))

    def _send_load(self, served: Served, layout: Layout, load: LoadTest, folder: Path) -> Round:
        assert self.recipe is not None
        endpoint = served.endpoint
        conditions = Conditions(
            load=load.with_recipe(self.recipe),
            url=endpoint.url,
            model=served.model,
            layout=str(layout),
            engine=self.engine,
            hardware=self.hardware,
        )
        name = f"{counted(load.requests, 'request')} from {counted(load.clients, 'client')}"
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
        return round_of(measured.figures, str(folder))

    def _measured(self, result: LayoutResult, answer: str, rounds: Sequence[Round]) -> LayoutResult:
        """Return the result with the figures of all rounds as of one run; keep the timings."""
        paths = [Path(one.folder) / TIMINGS for one in rounds if one.folder]
        runs = (map(without_answer, read_timings(path)) for path in paths)
        self.timings[result.layout] = timings = list(together(runs))
        if len(paths) == 1:
            summary = summarise(read_timings(paths[0]), self.load)
        else:
            summary = replace(summarise(timings, self.load), steady=None)
        return replace(result, answer=answer, summary=summary, rounds=tuple(rounds))

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
