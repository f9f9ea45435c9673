"""How deep each weight lies, for learning rates that fall towards the input.

Clark et al., ICLR 2020, https://arxiv.org/abs/2003.10555, section 3.1, and after it Bao et al.,
ICLR 2022, https://arxiv.org/abs/2106.08254, give the last layer the rate, and each layer below a
share of the rate of the one above. A layer here is a stage of the network: the stem, res2 to res5,
or what the family calls its blocks; everything outside of encoders is the head, the topmost one.

The lateral connections of SlowFast lie in the stage that they leave, a second end of R3D in the
last stage, whatever comes before the first stage with the stem.
"""

import re

from torch import nn

from vidssl.backbones import Encoder

STAGE = re.compile(r"(?:^|\.)(stem|res\d+|layer\d+|blocks\.\d+)(?:\.|$)")
LATERAL = re.compile(r"(?:^|\.)laterals\.(\d+)\.")
STEM = "stem"


def rate_shares(module: nn.Module, decay: float) -> dict[str, float]:
    """Return by name the share of the learning rate that each of a module's weights has.

    The head has 1, the last stage ``decay``, the one below ``decay ** 2`` and so on.
    """
    shares = {name: 1.0 for name, _ in module.named_parameters()}
    for path, part in module.named_modules():
        if not isinstance(part, Encoder):
            continue
        levels = _levels([name for name, _ in part.named_parameters()])
        top = max(levels.values(), default=0) + 1
        for name, level in levels.items():
            shares[f"{path}.{name}" if path else name] = decay ** (top - level)
    return shares


def _levels(names: list[str]) -> dict[str, int]:
    """Return the stage of each of an encoder's weights, from 0 at the input."""
    stages: dict[str, int] = {}
    levels: dict[str, int] = {}
    for name in names:
        found = STAGE.search(name)
        if found:
            levels[name] = stages.setdefault(found[1], len(stages))
        elif not (lateral := LATERAL.search(name)):
            # Before all stages it is the stem, after them it belongs to the last.
            levels[name] = len(stages) - 1 if stages else stages.setdefault(STEM, 0)
        else:
            levels[name] = int(lateral[1])
    return levels
