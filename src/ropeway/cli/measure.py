"""One layout after the other: up, one question, the load, down. `compare` and `demo` are this."""

import asyncio
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ropeway import __version__
from ropeway.bench.comparison import Comparison, LayoutResult, comparison_to_data, workload_of
from ropeway.bench.prompts import RandomPrompts, Recipe
from ropeway.bench.record import RunWriter
from ropeway.bench.run import Workload as Load
from ropeway.bench.run import prepare, run_bench
from ropeway.bench.stats import Conditions, Summary
from ropeway.cli.bench import progress_line
from ropeway.cli.bringup import Ground, bring_up, deployment_for
from ropeway.endpoint.client import Client, Endpoint, Request
from ropeway.endpoint.stream import Timing
from ropeway.engines.base import Deployment
from ropeway.errors import EndpointError, HostError, LaunchError, LayoutError
from ropeway.hosts.interrupts import uninterrupted
from ropeway.launch.local.takedown import take_down
from ropeway.report.compare import render_html
from ropeway.report.console import Screen
from ropeway.report.progress import Stages
from ropeway.spec.model import Layout

# Every model that can answer knows this one, and anyone can see whether the answer is right.
QUESTION = "What is the capital of France?"
_WARMUP = 2


@dataclass
class Series:
    """A comparison on its way. What was measured stays when a later layout fails."""

    ground: Ground
    folder: Path
    screen: Screen
    results: list[LayoutResult] = field(default_factory=list)
    timings: dict[str, Sequence[Timing]] = field(default_factory=dict)
    recipe: Recipe | None = None
    conditions: Conditions | None = None

    def run(self, layout: Layout) -> LayoutResult:
        """Measure one layout and take it down again. A layout that cannot run is a result too."""
        folder = self.folder / str(layout).replace("×", "-").replace("+", "-").lower()
        try:
            deployment = deployment_for(self.ground, layout, folder)
        except LayoutError as error:
            return self._keep(self._result(layout, "refused", error="; ".join(error.evidence)))
        folder.mkdir(parents=True, exist_ok=True)
        start_seconds = None
        try:
            start_seconds = bring_up(self.ground, deployment, self.screen)
            answer = self._ask(deployment)
            summary = self._bench(deployment, folder)
        except (LaunchError, EndpointError, HostError) as error:
            self.screen.warn(f"{layout}: {error.what}")
            failed = self._result(layout, "failed", error=error.what, seconds=start_seconds)
            return self._keep(failed)
        finally:
            with uninterrupted():
                take_down(deployment.service, deployment.scratch)
        done = self._result(layout, "ok", seconds=start_seconds, answer=answer, summary=summary)
        return self._keep(done)

    def write(self, command: Sequence[str], baseline: Layout | None) -> Comparison | None:
        """Write comparison.json and report.html; None when nothing was measured."""
        if self.conditions is None:
            return None
        comparison = self._comparison(command, baseline)
        data = json.dumps(comparison_to_data(comparison), ensure_ascii=False, indent=2)
        (self.folder / "comparison.json").write_text(data + "\n", encoding="utf-8")
        page = render_html(comparison, self.timings)
        (self.folder / "report.html").write_text(page, encoding="utf-8")
        return comparison

    def _ask(self, deployment: Deployment) -> str:
        with self.screen.step(f"ask “{QUESTION}”") as step:
            timing = asyncio.run(_ask(endpoint_of(deployment), deployment.served_name))
            answer = timing.text.strip()
            step.ok(answer)
        return answer

    def _bench(self, deployment: Deployment, folder: Path) -> Summary:
        endpoint, wanted = endpoint_of(deployment), self.ground.spec.workload
        if self.recipe is None:
            self.recipe = asyncio.run(
                prepare(endpoint, deployment.served_name, wanted.input_tokens)
            )
        load = Load(
            model=deployment.served_name,
            prompts=RandomPrompts(self.recipe, wanted.requests, wanted.seed),
            output_tokens=wanted.output_tokens,
            clients=wanted.clients,
            rate=wanted.rate,
            seed=wanted.seed,
            temperature=wanted.temperature,
            warmup=RandomPrompts(self.recipe, _WARMUP, wanted.seed + 1),
        )
        conditions = self._conditions(deployment, self.recipe)
        name = f"{wanted.requests} requests from {wanted.clients} clients"
        with self.screen.step(name) as step, RunWriter(folder, conditions) as writer:
            result = asyncio.run(
                run_bench(
                    endpoint,
                    load,
                    on_progress=lambda progress: step.tick(progress_line(progress)),
                    on_timing=writer.append,
                )
            )
            summary = writer.finish(result)
            step.ok(f"{summary.output_tokens_per_s:.1f} output tokens/s")
        self.conditions = self.conditions or conditions
        self.timings[str(deployment.layout)] = result.timings
        return summary

    def _conditions(self, deployment: Deployment, recipe: Recipe) -> Conditions:
        wanted = self.ground.spec.workload
        return Conditions(
            url=deployment.url,
            model=deployment.served_name,
            layout=str(deployment.layout),
            engine=self.ground.engine_version,
            hardware=self.ground.hardware,
            input_tokens=recipe.tokens,
            output_tokens=wanted.output_tokens,
            clients=wanted.clients,
            requests=wanted.requests,
            seed=wanted.seed,
            temperature=wanted.temperature,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            ropeway=__version__,
            rate=wanted.rate,
            warmup=_WARMUP,
            prompts=str(recipe),
        )

    def _result(
        self,
        layout: Layout,
        status: str,
        *,
        error: str | None = None,
        seconds: float | None = None,
        answer: str | None = None,
        summary: Summary | None = None,
    ) -> LayoutResult:
        hosts = -(-layout.npus // self.ground.spec.cluster.npus_per_host)
        return LayoutResult(
            layout=str(layout),
            npus=layout.npus,
            hosts=hosts,
            status=status,  # type: ignore[arg-type]
            error=error,
            start_seconds=seconds,
            summary=summary,
            answer=answer,
            run_dir=str(self.folder),
        )

    def _keep(self, result: LayoutResult) -> LayoutResult:
        self.results.append(result)
        line = json.dumps({"layout": result.layout, **asdict(result)}, ensure_ascii=False)
        with (self.folder / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        return result

    def _comparison(self, command: Sequence[str], baseline: Layout | None) -> Comparison:
        assert self.conditions is not None
        return Comparison(
            model=self.conditions.model,
            engine=self.conditions.engine,
            hardware=self.conditions.hardware,
            workload=workload_of(self.conditions),
            started_at=self.conditions.started_at,
            results=tuple(self.results),
            baseline=str(baseline) if baseline else None,
            command=shlex.join(command),
            ropeway=__version__,
            notes=_NOTES,
        ).with_answers_compared()


_NOTES = (
    "The chip is virtual: ranks are processes that share this machine's cores, so more NPUs bring"
    " no more arithmetic here; what differs between layouts is communication and waiting.",
    "Not verified on NPU hardware.",
)


def endpoint_of(deployment: Deployment) -> Endpoint:
    """Where it answers, with the key from the environment."""
    variable = deployment.serve.api_key_env or "OPENAI_API_KEY"
    return Endpoint(deployment.url, os.environ.get(variable) or None, variable)


async def _ask(endpoint: Endpoint, model: str) -> Timing:
    messages = ({"role": "user", "content": QUESTION},)
    async with Client(endpoint) as client:
        return await client.ask(Request(model, messages, max_tokens=32, temperature=0.0))


def run_all(series: Series, layouts: Sequence[Layout], stages: Stages) -> None:
    """Measure each layout in a stage of its own, named by the layout."""
    for layout in layouts:
        with stages.stage(str(layout)):
            series.run(layout)
