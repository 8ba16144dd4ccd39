"""
All but the chained stream with mosec: `python mosec_server.py --port <port> ...`, with the kind in `WORKLOAD`.

A worker of mosec does one request or one batch at a time. So a stream that other requests don't wait for is a batch as well: the events of all
requests in it are sent in turns, as a language model gives its tokens.
"""

import os
import time

import msgspec
from mosec import Server, SSEWorker, ValidationError, Worker

from device import BATCH_WAIT_MS, MAX_BATCH_SIZE, double
from work import RUNNING, STEP, hash_of, mark, text_of


class Row(msgspec.Struct):
    id: int
    name: str
    score: float
    isOpen: bool
    text: str


class Blob(msgspec.Struct):
    data: str


class Item(msgspec.Struct):
    x: float


class Number(msgspec.Struct):
    x: int


class Plan(msgspec.Struct):
    count: int
    delay: int


class Steps(msgspec.Struct):
    steps: int


class Json(Worker):
    """JSON by msgspec, which checks it as it reads it: mosec itself only reads it."""

    body: type

    def deserialize(self, data):
        try:
            return msgspec.json.decode(data, type=self.body)
        except msgspec.DecodeError as error:
            raise ValidationError(str(error)) from error

    def serialize(self, data):
        return msgspec.json.encode(data)


class Echo(Json):
    body = Row

    def forward(self, data):
        return data


class Noop(Json):
    body = Blob

    def forward(self, data):
        return {"ok": True}


class Batch(Json):
    body = Item

    def forward(self, data):
        return [{"y": y} for y in double([item.x for item in data])]


class Cpu(Json):
    body = Number

    def forward(self, data):
        return {"hash": hash_of(data.x)}


class Stream(SSEWorker, Json):
    body = Plan

    def forward(self, data):
        for index in range(max(plan.count for plan in data)):
            running = [(place, plan) for place, plan in enumerate(data) if index < plan.count]
            time.sleep(max(plan.delay for _, plan in running) / 1000)
            for place, _ in running:
                self.send_stream_event(text_of(index), index=place)
        return [None] * len(data)


class Work(Json):
    body = Steps

    def forward(self, data):
        for _ in range(data.steps):
            time.sleep(STEP)
            mark(b"s")
        mark(b"e")
        return {"done": data.steps}


if __name__ == "__main__":
    server = Server()
    match os.environ["WORKLOAD"]:
        case "echo":
            server.append_worker(Echo, route="/echo")
        case "chain":
            server.append_worker(Echo, route="/echo")
            server.append_worker(Echo, route="/echo")
        case "noop":
            server.append_worker(Noop, route="/noop")
        case "batch":
            server.append_worker(Batch, max_batch_size=MAX_BATCH_SIZE, max_wait_time=BATCH_WAIT_MS, route="/batch")
        case "cpu":
            server.append_worker(Cpu, num=2, route="/cpu")
        case "stream":
            server.append_worker(Stream, max_batch_size=128, max_wait_time=1, route="/stream")
        case "work":
            server.append_worker(Work, num=RUNNING, route="/work")
    server.run()
