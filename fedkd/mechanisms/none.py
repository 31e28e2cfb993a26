"""No mechanism: uploads and broadcasts leave as the method made them (every hook is absent, so each is the identity)."""

from __future__ import annotations

from dataclasses import dataclass

from fedkd.errors import ConfigError
from fedkd.setting import Setting


@dataclass(frozen=True)
class Config:
    """Nothing to choose."""


def check(setting: Setting) -> None:
    """Raises: ConfigError where a likelihood is chosen that nobody would read."""
    e = setting.experiment
    if (e.sensitivity_name, e.sensitivity_args) != ("constant", ""):
        raise ConfigError(f'sensitivity.name = "{e.sensitivity_name}": mechanism.name = "none" reads no likelihood; valid: '
                          'sensitivity.name = "constant" without args, or mechanism.name = "swing"')  # fmt: skip
