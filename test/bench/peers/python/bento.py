"""The echo and the batches with BentoML: `bentoml serve bento:Echo` or `bento:Batch`."""

import bentoml

from body import Row
from device import MAX_BATCH_SIZE, double

settings = {
    "workers": 1,
    "threads": 1,
    "traffic": {"timeout": 60, "max_concurrency": 1128},
    "metrics": {"enabled": False},
    "logging": {"access": {"enabled": False}},
}


@bentoml.service(**settings)
class Echo:
    @bentoml.api
    async def echo(self, body: Row, /) -> Row:
        return body


@bentoml.service(**settings)
class Batch:
    # BentoML learns how long to wait for more items; the limit on the latency is out of the way.
    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=10_000)
    def batch(self, xs: list[float]) -> list[float]:
        return double(xs)
