"""A module that stands for another one. Needs `stillhouse[dspy]`."""

from __future__ import annotations

import copy
from typing import Any

import dspy


class StandIn(dspy.Module):
    """Its predictors and its copies are those of the module that it stands for now."""

    def now(self) -> dspy.Module:
        """The module that it stands for."""
        raise NotImplementedError

    def named_parameters(self) -> Any:
        return self.now().named_parameters()

    def named_sub_modules(self, *args: Any, **kwargs: Any) -> Any:
        return self.now().named_sub_modules(*args, **kwargs)

    def deepcopy(self) -> Any:
        return self.now().deepcopy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.now(), memo)
