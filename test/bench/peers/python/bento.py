"""All kinds with BentoML: `bentoml serve bento:<Kind>`, as in `bento:Echo` and `bento:ChainStream`."""

import asyncio
from collections.abc import AsyncGenerator

import bentoml
from pydantic import StrictFloat

from body import Blob, Done, Hash, Number, Ok, Plan, Row, Steps
from device import MAX_BATCH_SIZE, double
from work import DEADLINE, RUNNING, STEP, WAITING, event_of, hash_of, mark

settings = {
    "workers": 1,
    "threads": 1,
    "traffic": {"timeout": 60, "max_concurrency": 1128},
    "metrics": {"enabled": False},
    "logging": {"access": {"enabled": False}},
}


async def events(plan: Plan) -> AsyncGenerator[str, None]:
    for index in range(plan.count):
        if plan.delay > 0:
            await asyncio.sleep(plan.delay / 1000)
        yield event_of(index)


@bentoml.service(**settings)
class Echo:
    @bentoml.api
    async def echo(self, body: Row, /) -> Row:
        return body


# Services can't call each other with a body that is the whole argument.
@bentoml.service(**settings)
class Second:
    @bentoml.api
    async def echo(self, body: Row) -> Row:
        return body

    @bentoml.api
    async def stream(self, plan: Plan) -> AsyncGenerator[str, None]:
        async for event in events(plan):
            yield event


@bentoml.service(**settings)
class Chain:
    second = bentoml.depends(Second)

    @bentoml.api
    async def echo(self, body: Row, /) -> Row:
        return await self.second.echo(body=body)


@bentoml.service(**settings)
class Noop:
    @bentoml.api
    async def noop(self, body: Blob, /) -> Ok:
        return Ok()


@bentoml.service(**settings)
class Batch:
    # BentoML learns how long to wait for more items; the limit on the latency is out of the way.
    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=10_000)
    def batch(self, xs: list[StrictFloat]) -> list[float]:
        return double(xs)


# The hash lets go of Python's lock, so threads do.
@bentoml.service(**{**settings, "threads": 2})
class Cpu:
    @bentoml.api
    def cpu(self, body: Number, /) -> Hash:
        return Hash(hash=hash_of(body.x))


@bentoml.service(**settings)
class Stream:
    @bentoml.api
    async def stream(self, body: Plan, /) -> AsyncGenerator[str, None]:
        async for event in events(body):
            yield event


@bentoml.service(**settings)
class ChainStream:
    second = bentoml.depends(Second)

    @bentoml.api
    async def stream(self, body: Plan, /) -> AsyncGenerator[str, None]:
        async for event in self.second.stream(plan=body):
            yield event


# BentoML counts those that run and those that wait together, and stops an async handler when the time is over.
@bentoml.service(**{**settings, "traffic": {"timeout": DEADLINE, "max_concurrency": RUNNING + WAITING}})
class Work:
    def __init__(self):
        self.turns = asyncio.Semaphore(RUNNING)

    @bentoml.api
    async def work(self, body: Steps, /, ctx: bentoml.Context) -> Done:
        async with self.turns:
            for done in range(body.steps):
                if await ctx.request.is_disconnected():
                    return Done(done=done)
                await asyncio.sleep(STEP)
                mark(b"s")
            mark(b"e")
        return Done(done=body.steps)
