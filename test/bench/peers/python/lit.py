"""All but the chains with LitServe, which has none: `python lit.py <kind> <port>`."""

import asyncio
import sys
import time

import litserve as ls

from body import Blob, Done, Doubled, Hash, Item, Number, Ok, Plan, Row, Steps
from device import BATCH_WAIT_MS, MAX_BATCH_SIZE, double
from work import DEADLINE, RUNNING, STEP, event_of, hash_of, mark


class Api(ls.LitAPI):
    def setup(self, device):
        pass

    def encode_response(self, output):
        return output


class Echo(Api):
    def decode_request(self, request: Row):
        return request

    def predict(self, body):
        return body

    def encode_response(self, output) -> Row:
        return output


class Noop(Api):
    def decode_request(self, request: Blob):
        return request

    def predict(self, body):
        return Ok()

    def encode_response(self, output) -> Ok:
        return output


class Batch(Api):
    def decode_request(self, request: Item):
        return request.x

    def batch(self, inputs):
        return inputs

    def predict(self, xs):
        return double(xs)

    def unbatch(self, output):
        return output

    def encode_response(self, output) -> Doubled:
        return Doubled(y=output)


class Cpu(Api):
    def decode_request(self, request: Number):
        return request.x

    def predict(self, x):
        return hash_of(x)

    def encode_response(self, output) -> Hash:
        return Hash(hash=output)


class Stream(Api):
    async def decode_request(self, request: Plan):
        return request

    async def predict(self, plan):
        for index in range(plan.count):
            if plan.delay > 0:
                await asyncio.sleep(plan.delay / 1000)
            yield event_of(index)

    async def encode_response(self, output):
        async for event in output:
            yield event


class Work(Api):
    def decode_request(self, request: Steps):
        return request.steps

    def predict(self, steps):
        for _ in range(steps):
            time.sleep(STEP)
            mark(b"s")
        mark(b"e")
        return steps

    def encode_response(self, output) -> Done:
        return Done(done=output)


# A worker does one request at a time, but for streams, which share it. There is no limit on how many requests wait.
kinds = {
    "echo": lambda: Echo(api_path="/echo"),
    "noop": lambda: Noop(api_path="/noop"),
    "batch": lambda: Batch(api_path="/batch", max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_WAIT_MS / 1000),
    "cpu": lambda: Cpu(api_path="/cpu"),
    "stream": lambda: Stream(api_path="/stream", stream=True, enable_async=True),
    "work": lambda: Work(api_path="/work"),
}
workers = {"cpu": 2, "work": RUNNING}

if __name__ == "__main__":
    kind, port = sys.argv[1:3]
    server = ls.LitServer(
        kinds[kind](), accelerator="cpu", workers_per_device=workers.get(kind, 1), timeout=DEADLINE, fast_queue=True
    )
    server.run(
        host="127.0.0.1",
        port=int(port),
        num_api_servers=1,
        log_level="error",
        generate_client_file=False,
        access_log=False,
        timeout_keep_alive=60,
    )
