"""Measure layouts in turn: bring one up, ask one question, send the load, take it down."""

import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ropeway.bench.comparison import Comparison, LayoutResult, comparison_to_data
from ropeway.bench.record import (
    TIMINGS,
    folder_name,
    read_timings,
    recorded,
    without_answer,
    write_json,
)
from ropeway.bench.rounds import Round, how_judged, together
from ropeway.bench.served import Rounds, Served
from ropeway.bench.stats import summarise
from ropeway.endpoint.stream import Timing
from ropeway.errors import EndpointError, HostError, LaunchError, LayoutError
from ropeway.phrases import joined
from ropeway.spec.model import Layout

NOTES = (
    "The chip is virtual: ranks are processes that share this machine's cores, so more NPUs bring"
    " no more arithmetic here; what differs between layouts is communication and waiting.",
    "Not verified on NPU hardware.",
)


Serve = Callable[[Layout, Path], AbstractContextManager[Served]]
"""Brings a layout up, with its logs in the folder, and takes it down at the end.

Raises LayoutError when the layout cannot run, LaunchError or HostError when it does not start.
"""


@dataclass
class ComparisonRun:
    """A comparison under way. What was measured stays when a later layout fails.

    sent              the load
    hosts_of          the number of hosts that a layout takes
    results, timings  of the layouts so far; the timings by layout, of those that were measured
    """

    sent: Rounds
    hosts_of: Callable[[Layout], int]
    folder: Path
    results: list[LayoutResult] = field(default_factory=list)
    timings: dict[str, Sequence[Timing]] = field(default_factory=dict)

    def measure(self, layout: Layout, serve: Serve) -> LayoutResult:
        """Measure one layout. One that cannot run, or that fails, is a result too.

        At Ctrl-C its whole rounds are kept, and the interrupt goes on.
        """
        folder = self.folder / folder_name(layout)
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
                answer = self.sent.ask(served)
                self._send_all(served, layout, folder, rounds)
        except LayoutError as error:
            result = replace(result, status="refused", error=joined(error.evidence))
        except (LaunchError, EndpointError, HostError) as error:
            self.sent.screen.warn(f"{layout}: {error.what}")
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
        conditions = self.sent.conditions
        if conditions is None:
            return None
        comparison = Comparison(
            model=conditions.model,
            engine=conditions.engine,
            hardware=conditions.hardware,
            load=conditions.load,
            started_at=conditions.started_at,
            results=tuple(self.results),
            baseline=str(baseline) if baseline else None,
            command=shlex.join(command),
            ropeway=conditions.ropeway,
            notes=(*NOTES, how_judged(self.sent.rounds, turns=False)),
        ).with_answers_compared()
        with recorded(self.folder):
            write_json(self.folder / "comparison.json", comparison_to_data(comparison))
        return comparison

    def _send_all(
        self, served: Served, layout: Layout, folder: Path, measured: list[Round]
    ) -> None:
        """Add each round to `measured` when it has ended."""
        for number in range(self.sent.rounds):
            own = folder / f"round-{number + 1}" if self.sent.rounds > 1 else folder
            measured.append(self.sent.send(served, str(layout), number, own))

    def _measured(self, result: LayoutResult, answer: str, rounds: Sequence[Round]) -> LayoutResult:
        """Return the result with the figures of all rounds as of one run; keep the timings."""
        paths = [Path(one.folder) / TIMINGS for one in rounds if one.folder]
        runs = (map(without_answer, read_timings(path)) for path in paths)
        self.timings[result.layout] = timings = list(together(runs))
        if len(paths) == 1:
            summary = summarise(read_timings(paths[0]), self.sent.load)
        else:
            summary = replace(summarise(timings, self.sent.load), steady=None)
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
