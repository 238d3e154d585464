"""Text that somebody else wrote, made fit to be shown: on a terminal, and in HTML.

Names of functions, modules and files, texts of exceptions, command lines, and whatever a saved report holds may contain
anything. What a terminal would obey, and what would turn the order of the letters around, is written as an escape of
Python and JSON (`\\u001b`): the reader sees that there is something, and a dump of JSON stays one.
"""

from __future__ import annotations

import re
from html import escape

# Controls of C0 (with ESC), DEL and C1 (with CSI); marks, embeddings and isolates that turn text around; separators of
# lines and paragraphs; halves of surrogate pairs, which no encoding can write.
_OBEYED = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_IN_LINES = re.compile(f"[{_OBEYED}]")
_IN_A_LINE = re.compile(f"[{_OBEYED}\n\t]")


def plain(text: str, *, lines: bool = False) -> str:
    """Return the text with nothing in it that a terminal obeys. `lines`: ends of lines and tabs may stay."""
    pattern = _IN_LINES if lines else _IN_A_LINE
    return pattern.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def html(text: str) -> str:
    """Return the text as HTML, for an element or a quoted attribute."""
    return escape(plain(text, lines=True))
