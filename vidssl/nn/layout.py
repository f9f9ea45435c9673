"""How a network lies in memory, and which of PyTorch's convolutions it gets on a CPU.

On a CPU with one thread, PyTorch (``use_mkldnn`` in ``aten/src/ATen/native/Convolution.cpp``)
computes float convolutions of one pixel in height and width by a loop of its own, a rule once made
for images that costs a video network a third of its speed: half of its kernels are of one pixel.
Dilated ones are exempt, and a dilation along an axis on which a kernel is one pixel wide moves
nothing. So such kernels are given one, and go to oneDNN with the others.
"""

from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def laid_out(module: Module, device: torch.device) -> Module:
    """Move a network to its device, as convolutions are fastest there; its values stay the same.

    Weights, and with them the maps, get their channels innermost. Return the module itself.
    """
    module.to(device).to(memory_format=torch.channels_last_3d)
    if device.type == "cpu":
        for part in module.modules():
            if isinstance(part, nn.Conv3d) and part.kernel_size[1:] == (1, 1):
                part.dilation = (part.dilation[0], 2, 2)
    return module
