"""Show that a string was found without showing it: how reports, logs and test output print strings of personal texts.

Decided here (specs: data, section 5): of an e-mail address the first letters and the last label stay (``a***@d***.org``),
of a number its last two digits, of a word its first letter. A mask hides how long the word was. It is no anonymisation:
who knows the text recognises the string.
"""

from __future__ import annotations

import re

HIDDEN = "***"
SHORTEST_WORD = 3
"""A word below this many letters shows none of them."""
SHORTEST_NUMBER = 4
"""A number below this many digits shows none of them: two of three would be most of it."""

_TOKEN = re.compile(
    r"(?P<local>[\w.+'%-]+)@(?P<domain>[\w-]+(?:\.[\w-]+)*)"
    r"|(?P<word>(?=\d*[^\W\d])\w+)"  # a letter somewhere in the run: names, IBAN, parts of addresses of pages
    r"|(?P<number>\d(?:[ \t().,:/-]{0,2}\d)*)"
)


def masked(text: str) -> str:
    """The string with every address, number and word cut down to a hint; punctuation and spaces stay."""
    return _TOKEN.sub(_mask, text)


def _mask(hit: re.Match[str]) -> str:
    if hit["domain"] is not None:
        first, _, rest = hit["domain"].partition(".")
        last = f".{rest.rpartition('.')[2]}" if rest and not rest[-1].isdigit() else ""
        return f"{_hint(hit['local'])}@{_hint(first)}{last}"
    if hit["word"] is not None:
        return _hint(hit["word"])
    return _number(hit["number"])


def _hint(word: str) -> str:
    """First letter of a word; nothing of a short one or of one that starts with a digit."""
    shows = len(word) >= SHORTEST_WORD and not word[0].isdigit()
    return f"{word[0] if shows else ''}{HIDDEN}"


def _number(number: str) -> str:
    """Every digit but the last two as a star; separators stay."""
    hidden = sum(symbol.isdigit() for symbol in number)
    if hidden >= SHORTEST_NUMBER:
        hidden -= 2
    shown = []
    for symbol in number:
        star = symbol.isdigit() and hidden > 0
        hidden -= star
        shown.append("*" if star else symbol)
    return "".join(shown)
