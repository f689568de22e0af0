"""Texts for people, with ordinary spaces."""

from __future__ import annotations


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")
