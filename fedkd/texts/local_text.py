"""A folder of the user's own ``.txt`` files: a client is a sub-folder or a file, a record a file, a paragraph or a line.

No pin and no licence are known, and the texts may be by real people: the set counts as personal, so reports mask it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from fedkd.corpus import Corpus, TextSpec, Unit, pieces, read_tree
from fedkd.errors import ConfigError, DataError

CLIENTS = ("folder", "file")

SPEC = TextSpec(
    name="local_text",
    licence="the user's to know",
    source="a folder of the user",
    personal=True,
    patterns=("**/*.txt",),
)


@dataclass(frozen=True)
class Config:
    """Choices of the records and of the client."""

    record: Unit = "file"
    """what one record is: "file", "paragraph" (what stands between empty lines) or "line" """
    client: Literal["folder", "file"] = "folder"
    """whose data a record is: "folder" (first sub-folder; a file outside of any is a client of its own) or "file" """

    def __post_init__(self) -> None:
        if self.record not in get_args(Unit):
            raise ConfigError(f"local_text: record = {self.record!r}; valid: {', '.join(get_args(Unit))}")
        if self.client not in CLIENTS:
            raise ConfigError(f"local_text: client = {self.client!r}; valid: {', '.join(CLIENTS)}")


def places(config: Config, root: str) -> list[Path]:
    """The one folder searched: ``root``. Raises: DataError where it is empty."""
    if not root:
        raise DataError("local_text: name the folder that holds the .txt files as the root")
    return [Path(root)]


def load(config: Config, root: str) -> Corpus:
    """Every record in the order of the files' paths; a record's group is its file's path below ``root``.

    Raises: DataError where no folder is named, it holds no .txt file, or a file is not UTF-8.
    """
    folder = places(config, root)[0]
    if not any(folder.glob(SPEC.patterns[0])):
        raise DataError(f"local_text: {folder} holds no .txt file; name a folder that does as the root")
    found: list[tuple[str, str, str]] = []
    for path, content in read_tree(SPEC, [folder]).items():
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"local_text: {path} is not UTF-8 (byte {error.start}); convert it first") from None
        client = PurePosixPath(path).parts[0] if config.client == "folder" else path
        found += [(piece, client, path) for piece in pieces(text.replace("\r\n", "\n"), config.record)]
    return Corpus(*(tuple(record[i] for record in found) for i in range(3)))
