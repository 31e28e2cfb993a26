"""Mails: sender, list and body of made-up ones (no real mail is in the tests); counts of the real ones where they are."""

from __future__ import annotations

import email
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from fedkd.corpus import tree_sha256
from fedkd.errors import ConfigError, DataError
from fedkd.texts import spam_assassin

PLAIN = b"From: Someone <Some.One@Example.ORG>\nSubject: x\nList-Id: Toys <Toys.example.org>\n\nHello,\r\n\r\nbye.\n"
LATIN = b"""From: two@example.org
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Caf=E9
"""
HTML = b"From: three@example.org\nContent-Type: text/html\n\n<p>One <b>two</b><style>no</style><br>three &amp; four</p>\n"
SPAM = b"From: four@example.org\n\nBuy.\n"
EMPTY = b"From: five@example.org\n\n \n"
MULTIPART = b"""From: six@example.org
Content-Type: multipart/mixed; boundary=B

--B
Content-Type: multipart/alternative; boundary=C

--C
Content-Type: text/plain

First part.
--C
Content-Type: text/html

<p>First part.</p>
--C--
--B
Content-Type: text/plain
Content-Disposition: attachment; filename=a.txt

An attachment.
--B
Content-Type: text/plain

A footer.
--B--
"""
FILES = {
    "easy-ham-1/1.txt": PLAIN,
    "easy-ham-1/2.txt": LATIN,
    "easy-ham-2/1.txt": EMPTY,
    "hard-ham-1/1.txt": HTML,
    "hard-ham-1/2.txt": MULTIPART,
    "spam-1/1.txt": SPAM,
}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(spam_assassin, "SPEC", replace(spam_assassin.SPEC, tree=tree_sha256(FILES), files=len(FILES)))
    return str(tmp_path)


def test_ham_by_sender(tiny: str) -> None:
    corpus = spam_assassin.load(spam_assassin.Config(), tiny)
    assert corpus.clients == ("some.one@example.org", "two@example.org", "three@example.org", "six@example.org")
    assert corpus.groups == ("toys.example.org", "no list", "no list", "no list")
    assert corpus.texts == ("Hello,\n\nbye.", "Caf\u00e9", "One two\nthree & four", "First part.\nA footer.")


def test_ham_and_spam_by_list(tiny: str) -> None:
    corpus = spam_assassin.load(spam_assassin.Config(client="list", include_spam=True), tiny)
    assert corpus.clients == corpus.groups == ("toys.example.org", "no list", "no list", "no list", "no list")
    assert corpus.texts[4] == "Buy."


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"Content-Type: text/plain; charset=no-such\n\n\xe9\n", "\u00e9"),
        (b"Content-Type: text/plain; charset=us-ascii\n\n\xe9\n", "\u00e9"),
        (b"\n\xc3\xa9\n", "\u00e9"),
        (b"Content-Type: application/pdf\n\nx\n", ""),
        (b"Content-Type: text/html\n\n<script>x</script></script>seen<p>", "seen"),
    ],
)
def test_bodies_of_odd_mails(raw: bytes, text: str) -> None:
    mail = email.message_from_bytes(raw)
    assert spam_assassin.body(mail) == text
    assert spam_assassin.sender(mail) == "no sender"
    assert spam_assassin.mailing_list(mail) == "no list"


def test_the_set_is_personal() -> None:
    assert spam_assassin.SPEC.personal


def test_unknown_clients_are_refused() -> None:
    with pytest.raises(ConfigError, match="valid: sender, list"):
        spam_assassin.Config(**{"client": "subject"})


def test_counts_of_the_real_mails_where_they_are() -> None:
    """specs: data, section 2: 4,150 ham mails by 886 senders, of which 161 / 80 / 39 wrote at least 5 / 10 / 20.

    Counts only: an assertion that fails prints no text and no address.
    """
    try:
        corpus = spam_assassin.load(spam_assassin.Config(), "")
    except DataError:
        pytest.skip(f"no files; fetch them with: {spam_assassin.SPEC.fetch}")
    sizes = sorted(Counter(corpus.clients).values())
    assert (len(corpus), len(sizes)) == (4_150, 886)
    assert [sum(size >= least for size in sizes) for least in (5, 10, 20)] == [161, 80, 39]
    lists = sorted(Counter(corpus.groups).values(), reverse=True)
    assert 1_060 in lists and 544 in lists
