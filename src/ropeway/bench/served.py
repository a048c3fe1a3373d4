"""Rounds of one load, sent to whatever is brought up for them: layouts, or settings of `tune`."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from ropeway.bench.load_test import Conditions, LoadTest
from ropeway.bench.measure import measure
from ropeway.bench.prompts import Recipe
from ropeway.bench.rounds import Round, round_of
from ropeway.bench.run import prepare
from ropeway.bench.screen import Screen
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.client import Client
from ropeway.endpoint.failures import ServerAway
from ropeway.endpoint.request import Request
from ropeway.phrases import phrase
from ropeway.units import counted

# Every model that can answer knows this one, and anyone can see whether the answer is right.
QUESTION = "What is the capital of France?"


@dataclass(frozen=True)
class Served:
    """What serves. `start_s`: from the first command to the first token."""

    endpoint: Endpoint
    model: str
    start_s: float


@dataclass
class Rounds:
    """Sends the same load again and again, with prompts of its own each time.

    rounds      that a server gets at most
    recipe      of the prompts, made when the first server answers
    conditions  of the first round
    """

    load: LoadTest
    engine: str
    hardware: str
    screen: Screen
    rounds: int = 1
    recipe: Recipe | None = None
    conditions: Conditions | None = None

    def ask(self, served: Served) -> str:
        """Ask the question that everyone can judge, and return the answer. Raises EndpointError."""
        with self.screen.step(phrase("ask “{question}”", question=QUESTION)) as step:
            answer = asyncio.run(_answer(served)).strip()
            step.ok(answer)
        return answer

    def send(self, served: Served, layout: str, number: int, folder: Path) -> Round:
        """Send the round of this number, from 0, and return its figures.

        layout  as it is recorded. Raises EndpointError, also where the server goes away meanwhile;
                Refused for what cannot be sent, and RopewayError where it is not recorded.
        """
        endpoint, load = served.endpoint, replace(self.load, fresh=number)
        if self.recipe is None:
            _, self.recipe = asyncio.run(prepare(endpoint, served.model, self.load, answers=True))
        conditions = Conditions(
            load=load.with_recipe(self.recipe, self.rounds),
            url=endpoint.url,
            model=served.model,
            layout=layout,
            engine=self.engine,
            hardware=self.hardware,
        )
        name = phrase(
            "{requests} from {clients}",
            requests=load.amount,
            clients=counted(load.clients, "client"),
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
            if measured.ended == "server away":
                raise ServerAway(phrase("the server went away under load"), where=endpoint.url)
            summary = measured.figures.summary
            step.ok(phrase("{rate:.1f} output tokens/s", rate=summary.output_tokens_per_s))
        self.conditions = self.conditions or conditions
        return round_of(measured.figures, str(folder))


async def _answer(served: Served) -> str:
    messages = ({"role": "user", "content": QUESTION},)
    request = Request(served.model, messages, max_tokens=32, temperature=0.0)
    async with Client(served.endpoint) as client:
        return (await client.ask(request)).text
