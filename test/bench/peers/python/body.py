"""The JSON bodies of the benchmark `peers`, checked by pydantic. Numbers and texts are not converted into each other."""

from pydantic import BaseModel, ConfigDict


class Row(BaseModel):
    model_config = ConfigDict(strict=True)

    id: int
    name: str
    score: float
    isOpen: bool
    text: str


class Item(BaseModel):
    model_config = ConfigDict(strict=True)

    x: float
