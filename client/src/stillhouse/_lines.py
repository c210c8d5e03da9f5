"""Lines of a body that end at their newline alone: httpx's end at U+2028 and its like too, which a JSON text may hold."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator


def lines(texts: Iterable[str]) -> Iterator[str]:
    """The lines, without their newlines, of a text that comes in pieces."""
    rest = ""
    for text in texts:
        *whole, rest = (rest + text).split("\n")
        yield from whole
    if rest:
        yield rest


async def lines_async(texts: AsyncIterable[str]) -> AsyncIterator[str]:
    """`lines` of pieces that are awaited."""
    rest = ""
    async for text in texts:
        *whole, rest = (rest + text).split("\n")
        for line in whole:
            yield line
    if rest:
        yield rest
