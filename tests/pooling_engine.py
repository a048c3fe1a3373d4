"""An engine that generates nothing: it embeds, scores, classifies or rates, on one path."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from router_backends import Engine, served

ANSWERS = {
    "/v1/embeddings": {"data": [{"embedding": [0.1]}]},
    "/rerank": {"results": [{"index": 0, "relevance_score": 0.5}]},
    "/classify": {"data": [{"probs": [0.5, 0.5]}]},
    "/pooling": {"data": [{"data": [[0.5]]}]},
}


class Pooling(Engine):
    """Answers on one path alone; asked on another, it refuses with `status`."""

    def __init__(
        self, path: str, answer: object, status: int, refusal: str = "not for this model"
    ) -> None:
        super().__init__()
        self.path, self.answer, self.status, self.refusal = path, answer, status, refusal
        self.asked: list[str] = []
        self.fails = False

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/{rest:.*}", self._one)
        return app

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})

    async def _one(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if self.fails:
            return web.Response(status=503)
        if request.path != self.path:
            return web.json_response({"error": {"message": self.refusal}}, status=self.status)
        return web.json_response(self.answer)


@contextmanager
def running(engine: Engine) -> Iterator[str]:
    """The URL of an engine that is served in a thread of its own."""
    begun, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with served(engine.app()) as engine.url:
            begun.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert begun.wait(60)
        yield f"{engine.url}/v1"
    finally:
        over.set()
        thread.join()
