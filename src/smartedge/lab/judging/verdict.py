"""What a judgement is made of."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Verdict"]


@dataclass(frozen=True)
class Verdict:
    """The judgement of a run, as a word, a headline and sentences."""

    tone: str  # "good", "bad" or "open": shown as a word and a colour
    word: str
    headline: str
    sentences: list[str]
