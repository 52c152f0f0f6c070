"""Twelve questions that an engineer asks of a report at first sight, where the answer stands, and how one gets there.

``{one}`` is the class of index 3, ``{other}`` the next one that a feature speaks against, ``{feature}`` what speaks most for
``{one}``, and ``{number}`` the place of the finding that is asked about. Answers are computed from the study (`key.py`); here
stands only in which element of the page they are to be read, and what is clicked on before: nothing, or at most two things.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from key import Answer, Facts

_CARD = ".face:has(h3 a:text-is('{one}'))"


@dataclass(frozen=True)
class Question:
    """A question on a report.

    Attributes:
        text: as it is asked.
        answer: from the study.
        where: the element that holds it, which also says what it is about.
        clicks: what is clicked on before, in turn, from the top of the page.
    """

    text: str
    answer: Callable[[Facts], Answer]
    where: str
    clicks: tuple[str, ...] = ()

    def of(self, facts: Facts) -> Question:
        """Return the question of one report, with its names in place."""
        where, *clicks = (one.format(**facts.names_asked) for one in (self.where, *self.clicks))
        return Question(self.text.format(**facts.names_asked), self.answer, where, tuple(clicks))


def questions(facts: Facts) -> list[Question]:
    """Return the twelve questions of one report."""
    own = facts.is_suspicious
    return [one.of(facts) for one in (*_RESULT, *_CLASSES, *(_SUSPICIOUS if own else _FOUND), *_BEHIND)]


_RESULT = (
    Question("How many features decide each class, and of how many?", Facts.features, "h1"),
    Question(
        "On what share of how many images is the network right with those features alone, and with all of them?",
        Facts.right,
        ".answer",
    ),
    Question("On what share of the images does it decide as before?", Facts.alike, ".answer"),
    Question("Which class loses most accuracy by it, and how much?", Facts.loses, ".lines li:first-child"),
    Question("Which class is recognised least often, and how often?", Facts.least, ".lines li:first-child"),
)
_CLASSES = (
    Question(
        "Which feature speaks most for the class {one}, what does it add, and where in the image does it look?",
        Facts.speaks_for,
        f"{_CARD} .for li:first-child",
    ),
    Question(
        "Which feature speaks most against the class {other}, and to which classes does it belong?",
        Facts.against,
        ".face:has(h3 a:text-is('{other}')) .against li:first-child",
    ),
)
_SUSPICIOUS = (
    Question("Is the class {one} suspicious, and why?", Facts.suspicion, f"{_CARD} .doubt >> nth=0"),
    Question(
        "What is to be done about it?",
        Facts.to_do,
        "#finding-{number}",
        (f"{_CARD} .doubt a >> nth=0", "#finding-{number} summary"),
    ),
)
_FOUND = (
    Question("What should one look at first in this network?", Facts.suspicion, ".lines .doubt >> nth=0"),
    Question(
        "What is to be done about it?",
        Facts.to_do,
        "#finding-{number}",
        (".lines .doubt a >> nth=0", "#finding-{number} summary"),
    ),
)
_BEHIND = (
    Question(
        "Images of which class are taken for which other most often, and how many of how many?",
        Facts.confused,
        "#confusions > summary",
        ("nav a:text-is('confusions')",),
    ),
    Question(
        "For which classes does feature {feature} speak, and against which?",
        Facts.users,
        "#f{feature}",
        (f"{_CARD} .for li:first-child a",),
    ),
    Question(
        "Which feature is used by most classes, and by how many?",
        Facts.most_used,
        "#shared > summary",
        ("nav a:text-is('map of the features')",),
    ),
)
