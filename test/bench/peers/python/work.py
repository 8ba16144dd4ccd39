"""What the handlers do beside the batches of `device.py`: a hash, the events of a stream, and steps that leave a mark in a file."""

import functools
import hashlib
import json
import os

WORDS = ["alpha", "brave", "crown", "delta"]
STEP = 0.01
RUNNING = 4
WAITING = 100

# The seconds that `work` may take, and every other request.
DEADLINE = int(os.environ.get("DEADLINE_MS", 60_000)) / 1000


def hash_of(x: int) -> str:
    return hashlib.pbkdf2_hmac("sha256", str(x).encode(), b"effect-serve", 20_000).hex()


def text_of(index: int) -> str:
    """Event `index` of a stream as JSON."""
    return json.dumps({"index": index, "text": WORDS[index % len(WORDS)]}, separators=(",", ":"))


def event_of(index: int) -> str:
    """Event `index` as an SSE event."""
    return f"data: {text_of(index)}\n\n"


@functools.cache
def _marks():
    return open(os.environ["STEPS_FILE"], "ab", buffering=0)


def mark(what: bytes) -> None:
    """Tells the benchmark of a step (`s`) or of the end (`e`) of work."""
    _marks().write(what)
