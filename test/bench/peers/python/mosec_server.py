"""The echo and the batches with mosec: `python mosec_server.py --port <port> ...`, with the workload in `WORKLOAD`."""

import os

import msgspec
from mosec import Server, ValidationError, Worker

from device import BATCH_WAIT_MS, MAX_BATCH_SIZE, double


class Row(msgspec.Struct):
    id: int
    name: str
    score: float
    isOpen: bool
    text: str


class Item(msgspec.Struct):
    x: float


class Json(Worker):
    """JSON by msgspec, which checks it as it reads it: mosec itself only reads it."""

    body: type

    def deserialize(self, data):
        try:
            return msgspec.json.decode(data, type=self.body)
        except msgspec.ValidationError as error:
            raise ValidationError(str(error)) from error

    def serialize(self, data):
        return msgspec.json.encode(data)


class Echo(Json):
    body = Row

    def forward(self, data):
        return data


class Batch(Json):
    body = Item

    def forward(self, data):
        return [{"y": y} for y in double([item.x for item in data])]


if __name__ == "__main__":
    server = Server()
    if os.environ["WORKLOAD"] == "echo":
        server.append_worker(Echo, num=1, route="/echo")
    else:
        server.append_worker(Batch, num=1, max_batch_size=MAX_BATCH_SIZE, max_wait_time=BATCH_WAIT_MS, route="/batch")
    server.run()
