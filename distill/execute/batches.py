"""Many things in groups: by the bytes of a line of the runner's protocol, or by their number."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import orjson

T = TypeVar("T")

REQUEST_BYTES = 4 * 1024 * 1024
"""Half of what a line may have: the rest of a request is small."""


def batches(each: Iterable[T], content: Callable[[T], Any], most: int = REQUEST_BYTES) -> Iterator[list[T]]:
    """Group in order, so that the JSON of `content` is at most `most` bytes a group; one that is larger by itself goes alone."""
    batch: list[T] = []
    size = 0
    for one in each:
        length = len(orjson.dumps(content(one)))
        if batch and size + length > most:
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += length
    if batch:
        yield batch


def chunks(each: Iterable[T], size: int) -> Iterator[list[T]]:
    """Group in order, `size` at a time."""
    rest = iter(each)
    while chunk := list(islice(rest, size)):
        yield chunk
