"""Caffe2's blobs: PySlowFast's older zoo, and the models of the long-term feature bank.

The Fast pathway's names begin with ``t_``; a lateral connection is called after the last layer
before it. ``riv`` is the running variance itself. The feature bank's models have an affine in place
of batch norm, scale and shift alone: mean 0 and variance 1 - eps make the same of ours.

What those models have behind res5, for boxes and for the bank, is left out.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from vidssl.published.formats import Translation, renamed

EPS = 1e-5
"""Of our batch norm."""
CONV = re.compile(r"(?P<path>t_)?(?P<place>conv1|res[2-5]_\d+_branch(?:1|2[abc]))_w")
NORM = re.compile(
    r"(?P<path>t_)?(?P<place>res_conv1|res[2-5]_\d+_branch(?:1|2[abc]))_bn_(?P<leaf>s|b|rm|riv)"
)
NON_LOCAL = re.compile(
    r"nonlocal_conv(?P<stage>[2-5])_(?P<block>\d+)_"
    r"(?:(?P<layer>theta|phi|g|out)_(?P<leaf>[wb])|bn_(?P<norm>s|b|rm|riv))"
)
LATERAL = re.compile(
    r"t_(?:pool1|res(?P<stage>[2-4])_\d+_branch2c_bn)_subsample_(?:w|bn_(?P<leaf>s|b|rm|riv))"
)
BLOCK = re.compile(r"res(?P<stage>[2-5])_(?P<block>\d+)_branch(?P<branch>\w+)")
TRUNK = re.compile(r"(t_)?(conv1|pool1|res_conv1|res[2-5]|nonlocal_conv[2-5])_.+")
OPTIMIZER = re.compile(r".+_momentum|lr|model_iter")
LEAVES = {"w": "weight", "s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}


def recognise(names: Collection[str]) -> bool:
    """Whether there is a stem and the scale behind it."""
    return {"conv1_w", "res_conv1_bn_s"} <= set(names)


def translate(tensors: Mapping[str, Tensor]) -> Translation:
    """Return the weights by our names, with statistics where there is an affine alone."""
    both = any(name.startswith("t_") for name in tensors)

    def rename(name: str) -> str | None:
        if OPTIMIZER.fullmatch(name):
            return "ignored: state of the optimizer"
        if name in {"pred_w", "pred_b"}:
            return f"classifier.{LEAVES[name[-1]]}"
        if not TRUNK.fullmatch(name):
            return "ignored: layers of the head"
        if found := LATERAL.fullmatch(name):
            number = int(found["stage"] or 1) - 1
            leaf = found["leaf"]
            inside = f"norm.{LEAVES[leaf]}" if leaf else "conv.weight"
            return f"laterals.{number}.{inside}"
        inside_trunk = _inside(name)
        if inside_trunk is None:
            return None
        path = ("fast" if name.startswith("t_") else "slow") if both else "trunk"
        return f"{path}.{inside_trunk}"

    translation = renamed(tensors, rename)
    return replace(translation, tensors=_with_statistics(translation.tensors))


def _inside(name: str) -> str | None:
    """Return our name within a pathway, or None if there is none."""
    if found := CONV.fullmatch(name):
        return _layer(found["place"], "conv", "weight")
    if found := NORM.fullmatch(name):
        return _layer(found["place"], "norm", LEAVES[found["leaf"]])
    if found := NON_LOCAL.fullmatch(name):
        layer, leaf = found["layer"] or "norm", LEAVES[found["leaf"] or found["norm"]]
        return f"res{found['stage']}.nonlocal{found['block']}.{layer}.{leaf}"
    return None


def _layer(place: str, kind: str, leaf: str) -> str:
    found = BLOCK.fullmatch(place)
    if not found:
        return f"stem.{kind}.{leaf}"
    block = f"res{found['stage']}.{found['block']}"
    if found["branch"] == "1":
        return f"{block}.shortcut.{kind}.{leaf}"
    return f"{block}.branch.{kind}{'abc'.index(found['branch'][1]) + 1}.{leaf}"


def _with_statistics(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the mean and variance that make batch norm the affine that has neither."""
    full = dict(tensors)
    for name, weight in tensors.items():
        place, _, leaf = name.rpartition(".")
        is_norm = place.rpartition(".")[2].startswith("norm")
        if is_norm and leaf == "weight" and f"{place}.running_var" not in tensors:
            full[f"{place}.running_mean"] = torch.zeros_like(weight)
            full[f"{place}.running_var"] = torch.full_like(weight, 1 - EPS)
    return full
