"""The echo with FastAPI: `python fastapi_echo.py echo <port>`, served by one uvicorn worker on uvloop and httptools."""

import sys

import uvicorn
from fastapi import FastAPI

from body import Row

app = FastAPI()


@app.post("/echo")
async def echo(body: Row) -> Row:
    return body


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
