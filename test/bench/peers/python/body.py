"""The JSON bodies of the benchmark `peers`, checked by pydantic. Numbers and texts are not converted into each other."""

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    model_config = ConfigDict(strict=True)


class Row(Body):
    id: int
    name: str
    score: float
    isOpen: bool
    text: str


class Blob(Body):
    data: str


class Ok(Body):
    ok: bool = True


class Item(Body):
    x: float


class Doubled(Body):
    y: float


class Number(Body):
    x: int


class Hash(Body):
    hash: str


class Plan(Body):
    """How many events a stream has, and the milliseconds in front of each."""

    count: int
    delay: int


class Steps(Body):
    steps: int


class Done(Body):
    done: int
