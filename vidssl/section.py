"""The frozen, closed base of every configuration object, and configs that are chosen by name."""

import importlib
import pkgutil
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from vidssl.errors import nearest


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, values cannot change after loading."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


class NestedError(ValueError):
    """What is wrong inside a config that was chosen by name; kept whole for the message."""

    def __init__(self, error: ValidationError, config: type[Section]) -> None:
        """Keep pydantic's error and the class that it speaks of."""
        super().__init__(str(error))
        self.error, self.config = error, config


def choices(package: str) -> list[str]:
    """Return what can be chosen in a package: the names of its public modules."""
    path = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(path) if module.name[0] != "_")


def choose(package: str, value: Any) -> Any:
    """Return the config that ``{name: ..., ...}`` stands for: the file's name is the registry.

    ``name`` names a module of ``package``, whose ``Config`` validates the mapping. Anything that is
    not a mapping is returned as it is, for pydantic to judge.

    Raises:
        ValueError: if there is no name, or nothing of that name.
        NestedError: if the mapping does not fit the ``Config``.
    """
    if not isinstance(value, dict):
        return value
    name, names = value.get("name"), choices(package)
    if name is None:
        raise ValueError(f"needs a name, one of {', '.join(names)}")
    if name not in names:
        hint = nearest(str(name), names)
        raise ValueError(f"no {name!r} in {package}{hint} (choices: {', '.join(names)})")
    config: type[Section] = importlib.import_module(f"{package}.{name}").Config
    try:
        return config.model_validate(value)
    except ValidationError as error:
        raise NestedError(error, config) from error
