"""The caller's own examples behind the rows of a job: the server keeps JSON, and a program or a metric may want the objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stillhouse._plain import plain_json

Json = dict[str, Any]


class Originals:
    """Finds an example by the JSON that was sent for it."""

    def __init__(self, examples: Sequence[Any] = ()) -> None:
        self._of_row = {_key(plain_json(dict(example.items()))): example for example in examples}

    def values(self, row: Mapping[str, Any], names: Mapping[str, Any]) -> Json:
        """The values of the fields `names`, as the caller gave them; the JSON where no example of this call is the row."""
        example = self._of_row.get(_key(row), {})
        return {name: example.get(name, value) for name, value in names.items()}


def _key(row: Mapping[str, Any]) -> str:
    return json.dumps(json.loads(json.dumps(row)), sort_keys=True)  # keys that are no texts are sorted as the texts that they become
