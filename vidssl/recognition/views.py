"""From the views of a video to its class scores.

Feichtenhofer et al., "SlowFast Networks", ICCV 2019, https://arxiv.org/abs/1812.03982, section 4.1,
and the authors' released code: on pictures larger than those of the training, the trunk's map is
averaged over all frames and over each window of the size that the map had in the training; the
linear layer and the softmax act at each place of that window, and only then is the mean taken, over
the places and over the views. The code adds views up, which ranks classes as their mean does.

Difference: of several views the mean is taken in double precision.

Tensor suffixes: B clips, C channels, T frames, H and W pixels or cells, F features, K classes,
V views.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vidssl.backbones import Encoder
from vidssl.features.operators import BankWindow
from vidssl.recognition.classifier import Classifier
from vidssl.recognition.protocol import Activation, Gathering


def clip_scores(
    classifier: Classifier,
    clips_BCTHW: Tensor,
    activation: Activation,
    window: int | None,
    seen: BankWindow | None = None,
) -> Tensor:
    """Return a score for each class of each clip, ``(B, K)``, single precision.

    ``window`` is the side in cells over which the map is averaged; None averages all of it, and
    the layer acts once. ``seen`` is what each clip sees of a feature bank, which it asks with its
    whole map's mean.
    """
    if window is None:
        return _activated(classifier(clips_BCTHW, seen), activation)
    map_BFHW = classifier.encoder.maps(clips_BCTHW).mean(dim=2)
    height, width = (min(window, size) for size in map_BFHW.shape[2:])
    pooled_BFHW = F.avg_pool2d(map_BFHW, (height, width), stride=1)
    logits_BHWK = classifier.logits_of(pooled_BFHW.permute(0, 2, 3, 1))
    return _activated(logits_BHWK, activation).mean(dim=(1, 2))


def video_scores(scores_VK: Tensor, how: Gathering) -> Tensor:
    """Return the scores of a video, ``(K,)``, single precision, from those of its views."""
    if how == "max":  # as Charades is tested: an action may be in one view alone
        return scores_VK.amax(dim=0)
    return scores_VK.double().mean(dim=0).float()


def pools_its_map(encoder: Encoder) -> bool:
    """Whether the pooled feature is the mean of the map; not so for a class token."""
    return type(encoder).forward is Encoder.forward


def _activated(logits: Tensor, activation: Activation) -> Tensor:
    logits = logits.float()
    return logits.softmax(dim=-1) if activation == "softmax" else torch.sigmoid(logits)
