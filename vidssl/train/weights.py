"""Weights on disk: safetensors with a JSON card beside it; opening them runs no code.

``encoder.safetensors`` + ``encoder.json`` is a backbone alone, ``detector.safetensors`` +
``detector.json`` a backbone with its head.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vidssl.errors import CheckpointError, listed, nearest
from vidssl.files import replacing, sha256, write_text

FORMAT_VERSION = 1


def save_weights(folder: Path, name: str, module: nn.Module, card: Mapping[str, Any]) -> str:
    """Write ``name.safetensors`` and ``name.json`` into ``folder``; return the weights' hash.

    The card gets the hash and the format version; weights come first, so a card never describes
    weights that are not there.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    with replacing(folder / f"{name}.safetensors") as aside:
        aside.write_bytes(safetensors.torch.save(tensors))  # save_file hides a full disk
    weights_hash = sha256(folder / f"{name}.safetensors")[:16]
    full = {"format_version": FORMAT_VERSION, "hash": weights_hash, **card}
    write_text(folder / f"{name}.json", json.dumps(full, indent=1) + "\n")
    return weights_hash


def load_weights(path: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return (card, tensors) of ``name`` in a run's folder, or of a ``.safetensors`` file.

    Raises:
        CheckpointError: if either file is absent, damaged, or they do not belong together.
    """
    weights = path / f"{name}.safetensors" if path.is_dir() else path
    if not weights.is_file():
        raise CheckpointError(_absent(path, weights, name))
    card = _read_card(weights.with_suffix(".json"))
    found = sha256(weights)[:16]
    if card.get("hash") != found:
        raise CheckpointError(
            f"{weights}: content {found} is not what {name}.json describes ({card.get('hash')})"
        )
    try:
        return card, safetensors.torch.load_file(str(weights))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights}: not a safetensors file ({error})") from error


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put every tensor into ``module``; all names and shapes must agree.

    Raises:
        CheckpointError: with every tensor that is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    problems = [f"missing: {key}" for key in own.keys() - tensors.keys()]
    problems += [f"unexpected: {key}" for key in tensors.keys() - own.keys()]
    problems += [
        f"{key}: shape {tuple(tensors[key].shape)} there, {tuple(own[key].shape)} in the recipe"
        for key in own.keys() & tensors.keys()
        if own[key].shape != tensors[key].shape
    ]
    if problems:
        title = f"{where}: does not fit the recipe ({len(problems)} of {len(own)} tensors)"
        raise CheckpointError(listed(title, sorted(problems), limit=8))
    module.load_state_dict(dict(tensors))


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected the card of the weights beside it") from error
    if not isinstance(card, dict) or card.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(f"{path}: expected format_version {FORMAT_VERSION}")
    return card


def _absent(path: Path, weights: Path, name: str) -> str:
    if path.is_dir():
        return f"{path}: holds no {weights.name}; expected the folder of a finished run"
    if not path.exists() and path.parent.is_dir():
        return f"{path}: no such file{nearest(path.name, (p.name for p in path.parent.iterdir()))}"
    return f"{path}: no such file or folder; expected a run, or a {name}.safetensors"
