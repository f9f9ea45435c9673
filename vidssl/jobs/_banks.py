"""What trainings that read a bank, and the testing of a classifier that does, have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidssl.errors import BankError, listed
from vidssl.features import Bank, Window, WindowConfig
from vidssl.features.manifest import BANK_JSON
from vidssl.features.operators import BankWindow, OperatorConfig
from vidssl.files import sha256
from vidssl.jobs._detector import made_by, require_made_alike
from vidssl.train.folder import Terms
from vidssl.video.storage import Location, video_id


def bank_for(
    operator: OperatorConfig | None, path: Path | None, who: str, option: str = "--bank"
) -> Bank | None:
    """Return the bank if ``who`` reads one.

    Raises:
        BankError: if a bank is given and not read, or read and not given.
    """
    if operator is None:
        if path is not None:
            raise BankError(f"{path}: {who} has no operator to read a bank with")
        return None
    if path is None:
        raise BankError(f"{who} reads a feature bank: give one with {option}")
    return Bank.open(path)


CONTENT = "bank_content"
"""Of a run's identity: which rows of a bank it reads."""


def identity_of(bank: Bank | None) -> dict[str, Any]:
    """Return what a run is known by of the bank that it reads: its rows, and who made them how.

    Taken from the bank's own manifest; no feature is read.
    """
    if bank is None:
        return {}
    sizes = {"rows": len(bank), "videos": len(bank.videos)}
    details = dict(bank.identity.details)
    return {CONTENT: {"sha256": bank.content_hash, **sizes, "made_by": details}}


def same_bank(terms: Terms, bank: Bank | None) -> Terms:
    """Return terms on which a bank is the same if its rows are, whatever is said of their making.

    Runs that did not keep which rows they read are gone on with.
    """
    here = identity_of(bank)

    def renewed(identity: dict[str, Any]) -> dict[str, Any]:
        found = terms.renewed(identity)
        there = found.get(CONTENT)
        if not here or there is None:
            return {**found, **here}
        is_same = isinstance(there, dict) and there.get("sha256") == here[CONTENT]["sha256"]
        return {**found, **here} if is_same else found

    return replace(terms, renewed=renewed)


def facts_of(bank: Bank) -> dict[str, Any]:
    """Return what a network's card says of the bank that it was trained with."""
    return {"encoder": bank.encoder_hash, "dim": bank.dim, "made_by": made_by(bank)}


def require_same(bank: Bank, facts: Mapping[str, Any]) -> None:
    """Refuse a bank whose rows were made in another way than those that a network knows.

    Raises:
        BankError: with every difference.
    """
    made = facts.get("made_by", {})
    require_made_alike(bank, str(facts["encoder"]), made, "the classifier's bank")


def require_videos(bank: Bank, videos: Sequence[Location]) -> None:
    """Refuse a bank that does not know the videos: a window without rows tells nothing.

    Raises:
        BankError: with some of those that it lacks.
    """
    names = sorted({video_id(path) for path in videos})
    absent = [name for name in names if not bank.has(name)]
    if absent:
        title = (
            f"{bank.folder}: lacks {len(absent)} of the {len(names)} videos (a bank is for the "
            "videos of training and of tests)"
        )
        raise BankError(listed(title, absent, limit=8))


def window_around(
    bank: Bank, config: WindowConfig, video: Location, times_s: torch.Tensor, seed: int
) -> Window:
    """Return what a clip sees of the bank: a window around the middle of its ``times_s`` ``(T,)``.

    The bank's times count from the beginning of the video.
    """
    return bank.window(
        video_id(video),
        float(times_s[0] + times_s[-1]) / 2,
        before_s=config.before_s,
        after_s=config.after_s,
        per_step=config.per_step,
        pick=config.pick,
        seed=seed,
    )


@dataclass(frozen=True)
class Memory:
    """A bank as a test reads it: nothing of it is left to chance but by a seed of 0."""

    bank: Bank
    window: WindowConfig
    is_emptied: bool = False

    def of(self, video: Location, times_s: torch.Tensor) -> Window:
        """Return what a clip sees; nothing of an emptied bank."""
        found = window_around(self.bank, self.window, video, times_s, 0)
        if not self.is_emptied:
            return found
        return Window(*(np.zeros_like(part) for part in vars(found).values()))

    def described(self) -> dict[str, Any]:
        """Return what decides the scores."""
        about = sha256(self.bank.folder / BANK_JSON)[:16]  # which has the checksums of all rows
        return {
            "bank": about,
            "bank_encoder": self.bank.encoder_hash,
            "bank_emptied": self.is_emptied,
        }


def memory_of(
    operator: OperatorConfig | None,
    facts: Mapping[str, Any],
    path: Path | None,
    who: str,
    *,
    is_emptied: bool,
) -> Memory | None:
    """Return how ``who`` reads the bank at ``path``, if it reads one.

    Raises:
        BankError: if it is missing, not wanted, or another than that which it was trained with.
    """
    bank = bank_for(operator, path, who)
    if bank is None or operator is None:
        if is_emptied:
            raise BankError(f"--empty-bank: {who} reads no bank")
        return None
    require_same(bank, facts)
    return Memory(bank, operator.window, is_emptied)


def stacked(windows: Sequence[Window], device: torch.device) -> BankWindow:
    """Return the windows of B clips as one."""
    parts = (
        np.stack([getattr(window, name) for window in windows])
        for name in ("features", "mask", "offset_s")
    )
    return BankWindow(*(torch.from_numpy(part).to(device) for part in parts))
