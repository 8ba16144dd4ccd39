"""
All but the chains with FastAPI: `python fastapi_echo.py <kind> <port>`, served by one uvicorn worker on uvloop and httptools.

FastAPI has no batches, no limits and no deadlines, so those are written by hand.
"""

import asyncio
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse

from body import Blob, Done, Doubled, Hash, Item, Number, Ok, Plan, Row, Steps
from device import BATCH_WAIT_MS, MAX_BATCH_SIZE, double
from work import DEADLINE, RUNNING, STEP, WAITING, event_of, hash_of, mark

processes = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
items: asyncio.Queue[tuple[float, asyncio.Future[float]]] = asyncio.Queue()
turns = asyncio.Semaphore(RUNNING)
present = 0


async def collect() -> list[tuple[float, asyncio.Future[float]]]:
    batch = [await items.get()]
    try:
        async with asyncio.timeout(BATCH_WAIT_MS / 1000):
            while len(batch) < MAX_BATCH_SIZE:
                batch.append(await items.get())
    except TimeoutError:
        pass
    return batch


async def run_batches() -> None:
    while True:
        batch = await collect()
        try:
            ys = await asyncio.to_thread(double, [x for x, _ in batch])
        except Exception as error:
            for _, done in batch:
                done.set_exception(error)
        else:
            for (_, done), y in zip(batch, ys):
                done.set_result(y)


@asynccontextmanager
async def lifespan(_: FastAPI):
    batches = asyncio.create_task(run_batches())
    with processes:
        yield
    batches.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/echo")
async def echo(body: Row) -> Row:
    return body


@app.post("/noop")
async def noop(body: Blob) -> Ok:
    return Ok()


@app.post("/batch")
async def batch(body: Item) -> Doubled:
    done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    items.put_nowait((body.x, done))
    return Doubled(y=await done)


@app.post("/cpu")
async def cpu(body: Number) -> Hash:
    return Hash(hash=await asyncio.get_running_loop().run_in_executor(processes, hash_of, body.x))


@app.post("/stream")
async def stream(body: Plan) -> StreamingResponse:
    async def events():
        for index in range(body.count):
            if body.delay > 0:
                await asyncio.sleep(body.delay / 1000)
            yield event_of(index)

    return StreamingResponse(events(), media_type="text/event-stream")


@app.post("/work")
async def work(body: Steps, request: Request) -> Done:
    global present
    if present == RUNNING + WAITING:
        raise HTTPException(503, "Too many requests")
    present += 1
    try:
        async with asyncio.timeout(DEADLINE), turns:
            for _ in range(body.steps):
                if await request.is_disconnected():
                    raise HTTPException(499, "The client has hung up")
                await asyncio.sleep(STEP)
                mark(b"s")
            mark(b"e")
    except TimeoutError as error:
        raise HTTPException(504, "The deadline has passed") from error
    finally:
        present -= 1
    return Done(done=body.steps)


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="error",
        timeout_keep_alive=60,
        limit_concurrency=1128,
    )
