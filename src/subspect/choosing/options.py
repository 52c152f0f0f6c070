"""What may be asked for when features are chosen; nothing here imports anything heavy."""

from __future__ import annotations

from typing import Literal, get_args

Target = Literal["dense", "labels"]
TARGETS: tuple[Target, ...] = get_args(Target)  #: what a decomposed head is to repeat; the first is the default
PAPER = ("contribution", "frequency")  #: the paper's measures
METHODS = ("pursuit", *PAPER)  #: how features are chosen; the first is the default
HOLD_OUT = 0.2  #: the share of an image set that is held out to measure on, where a study has no other
DRAWS = 20  #: halves of the images on which a choice is repeated
