"""The echo and the batches with Ray Serve: `python ray_serve.py echo|batch <port> <folder>`. Ray keeps its own files in the folder."""

import asyncio
import signal
import sys

import ray
from ray import serve
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from body import Item, Row
from device import BATCH_WAIT_MS, MAX_BATCH_SIZE, double

# Ray takes it for its own parts and for the replicas from different places.
logs = {"enable_access_log": False, "log_level": "ERROR"}
settings = {
    "num_replicas": 1,
    "max_ongoing_requests": 128,
    "max_queued_requests": 1000,
    "ray_actor_options": {"num_cpus": 0},
    "logging_config": logs,
}


def refused(error: ValidationError) -> Response:
    return Response(error.json(), status_code=422, media_type="application/json")


@serve.deployment(**settings)
class Echo:
    async def __call__(self, request: Request) -> Response:
        try:
            body = Row.model_validate_json(await request.body())
        except ValidationError as error:
            return refused(error)
        return Response(body.model_dump_json(), media_type="application/json")


@serve.deployment(**settings)
class Batch:
    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_MS / 1000, max_concurrent_batches=1)
    async def double(self, xs: list[float]) -> list[float]:
        return await asyncio.to_thread(double, xs)

    async def __call__(self, request: Request) -> dict | Response:
        try:
            item = Item.model_validate_json(await request.body())
        except ValidationError as error:
            return refused(error)
        return {"y": await self.double(item.x)}


if __name__ == "__main__":
    workload, port, folder = sys.argv[1:4]
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
        http_options={"host": "127.0.0.1", "port": int(port), "request_timeout_s": 60},
        logging_config=logs,
    )
    deployment = Echo if workload == "echo" else Batch
    serve.run(deployment.bind(), name=workload, route_prefix=f"/{workload}")
    # Ray's own handler would abort; this way it ends its processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    signal.pause()
