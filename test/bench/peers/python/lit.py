"""The echo and the batches with LitServe: `python lit.py echo|batch <port>`."""

import sys

import litserve as ls

from body import Item, Row
from device import BATCH_WAIT_MS, MAX_BATCH_SIZE, double


class Echo(ls.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request: Row):
        return request

    def predict(self, body):
        return body

    def encode_response(self, output) -> Row:
        return output


class Batch(ls.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request: Item):
        return request.x

    def batch(self, inputs):
        return inputs

    def predict(self, xs):
        return double(xs)

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return {"y": output}


if __name__ == "__main__":
    workload, port = sys.argv[1:3]
    api = (
        Echo(api_path="/echo")
        if workload == "echo"
        else Batch(api_path="/batch", max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_WAIT_MS / 1000)
    )
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(port),
        num_api_servers=1,
        log_level="error",
        generate_client_file=False,
        access_log=False,
        timeout_keep_alive=60,
    )
