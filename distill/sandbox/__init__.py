"""What user code is locked into: `choose` finds the best rung that holds on this machine, `make` a place on it for one process."""

from distill.sandbox.cell import Cell, make
from distill.sandbox.choosing import Choice, choose, choose_for
from distill.sandbox.rungs import RUNGS, Limits, Rung
from distill.sandbox.self_test import Outcome, try_rung

__all__ = ["RUNGS", "Cell", "Choice", "Limits", "Outcome", "Rung", "choose", "choose_for", "make", "try_rung"]
