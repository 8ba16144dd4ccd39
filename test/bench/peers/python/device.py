"""The model of `../device.ts`: 5 ms and 0.2 ms for each item, without CPU; at most 32 items, and one batch at a time."""

import threading
import time

MAX_BATCH_SIZE = 32
BATCH_WAIT_MS = 10

_free = threading.Lock()


def double(xs: list[float]) -> list[float]:
    """Fails for the whole batch, after its time, when it has a negative item."""
    if len(xs) > MAX_BATCH_SIZE or not _free.acquire(blocking=False):
        raise RuntimeError("The device is misused")
    try:
        time.sleep(0.005 + 0.0002 * len(xs))
        if min(xs) < 0:
            raise ValueError("The model takes no negative numbers")
        return [2 * x for x in xs]
    finally:
        _free.release()
