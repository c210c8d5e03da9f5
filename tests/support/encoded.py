"""One training row in tokens."""

from __future__ import annotations

from typing import Any

from engines.schemas import TrainingRow
from engines.trainer.errors import BadInput
from engines.trainer.rows import EncodedRow, encode_all


def encode(row: TrainingRow, tokenizer: Any) -> EncodedRow:
    """Raises BadInput where it cannot be trained on."""
    (encoded,) = encode_all([("row", row)], tokenizer, "rows")
    if isinstance(encoded, BadInput):
        raise encoded
    return encoded
