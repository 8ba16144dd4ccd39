"""All kinds with Ray Serve: `python ray_serve.py <kind> <port> <folder>`. Ray keeps its own files in the folder."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor

import ray
from pydantic import BaseModel, ValidationError
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from body import Blob, Done, Doubled, Hash, Item, Number, Ok, Plan, Row, Steps
from device import BATCH_WAIT_MS, MAX_BATCH_SIZE, double
from work import DEADLINE, RUNNING, STEP, WAITING, event_of, hash_of, mark

# Ray takes it for its own parts and for the replicas from different places.
logs = {"enable_access_log": False, "log_level": "ERROR"}
settings = {
    "num_replicas": 1,
    "max_ongoing_requests": 128,
    "max_queued_requests": 1000,
    "ray_actor_options": {"num_cpus": 0},
    "logging_config": logs,
}


class Json:
    """Answers a body that has been checked."""

    body: type[BaseModel]

    async def answer(self, body) -> BaseModel | Response:
        raise NotImplementedError

    async def __call__(self, request: Request) -> Response:
        try:
            body = self.body.model_validate_json(await request.body())
        except ValidationError as error:
            return Response(error.json(), status_code=422, media_type="application/json")
        answer = await self.answer(body)
        if isinstance(answer, Response):
            return answer
        return Response(answer.model_dump_json(), media_type="application/json")


@serve.deployment(**settings)
class Echo(Json):
    body = Row

    async def answer(self, body: Row) -> Row:
        return body


@serve.deployment(**settings)
class Second:
    async def echo(self, body: Row) -> Row:
        return body

    async def stream(self, plan: Plan) -> AsyncGenerator[str, None]:
        async for event in events(plan):
            yield event


@serve.deployment(**settings)
class Chain(Json):
    body = Row

    def __init__(self, second: DeploymentHandle):
        self.second = second

    async def answer(self, body: Row) -> Row:
        return await self.second.echo.remote(body)


@serve.deployment(**{**settings, "max_ongoing_requests": int(os.environ.get("MAX_ONGOING", 128))})
class Noop(Json):
    body = Blob

    async def answer(self, body: Blob) -> Ok:
        return Ok()


@serve.deployment(**settings)
class Batch(Json):
    body = Item

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_MS / 1000, max_concurrent_batches=1)
    async def double(self, xs: list[float]) -> list[float]:
        return await asyncio.to_thread(double, xs)

    async def answer(self, body: Item) -> Doubled:
        return Doubled(y=await self.double(body.x))


# The line is in the replicas. With one request at once in each, Ray's router would sleep for longer than a hash takes.
@serve.deployment(**{**settings, "num_replicas": 2, "max_ongoing_requests": 64})
class Cpu(Json):
    body = Number

    def __init__(self):
        self.thread = ThreadPoolExecutor(1)

    async def answer(self, body: Number) -> Hash:
        return Hash(hash=await asyncio.get_running_loop().run_in_executor(self.thread, hash_of, body.x))


async def events(plan: Plan) -> AsyncGenerator[str, None]:
    for index in range(plan.count):
        if plan.delay > 0:
            await asyncio.sleep(plan.delay / 1000)
        yield event_of(index)


@serve.deployment(**settings)
class Stream(Json):
    body = Plan

    async def answer(self, body: Plan) -> Response:
        return StreamingResponse(events(body), media_type="text/event-stream")


@serve.deployment(**settings)
class ChainStream(Json):
    body = Plan

    def __init__(self, second: DeploymentHandle):
        self.second = second.options(stream=True)

    async def answer(self, body: Plan) -> Response:
        return StreamingResponse(self.second.stream.remote(body), media_type="text/event-stream")


# Ray cancels a request when its client hangs up and when its time is over.
@serve.deployment(**{**settings, "max_ongoing_requests": RUNNING, "max_queued_requests": WAITING})
class Work(Json):
    body = Steps

    async def answer(self, body: Steps) -> Done:
        for _ in range(body.steps):
            await asyncio.sleep(STEP)
            mark(b"s")
        mark(b"e")
        return Done(done=body.steps)


applications = {
    "echo": lambda: Echo.bind(),
    "chain": lambda: Chain.bind(Second.bind()),
    "noop": lambda: Noop.bind(),
    "batch": lambda: Batch.bind(),
    "cpu": lambda: Cpu.bind(),
    "stream": lambda: Stream.bind(),
    "chainStream": lambda: ChainStream.bind(Second.bind()),
    "work": lambda: Work.bind(),
}
routes = {"chain": "/echo", "chainStream": "/stream"}

if __name__ == "__main__":
    kind, port, folder = sys.argv[1:4]
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 1024 * 1024,
        _temp_dir=folder,
        runtime_env={"env_vars": {"PYTHONPATH": sys.path[0]}},
    )
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": "127.0.0.1", "port": int(port), "request_timeout_s": DEADLINE},
        logging_config=logs,
    )
    serve.run(applications[kind](), name=kind, route_prefix=routes.get(kind, f"/{kind}"))
    # Ray's own handler would abort; this way it ends its processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    signal.pause()
