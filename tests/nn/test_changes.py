"""What changes in a clip, against torchvision's grey frames."""

import torch
import torchvision.transforms.v2.functional as tv

from vidssl.nn.changes import difference


def test_differences_are_those_of_grey_frames_and_the_last_repeats() -> None:
    clip = torch.rand(3, 3, 9, 11, generator=torch.Generator().manual_seed(8))
    grey = tv.rgb_to_grayscale(clip.transpose(0, 1), 3).transpose(0, 1)
    found = difference(clip[None])[0]
    assert torch.allclose(found[:, 0], grey[:, 1] - grey[:, 0], atol=1e-6)
    assert torch.allclose(found[:, 1], grey[:, 2] - grey[:, 1], atol=1e-6)
    assert torch.equal(found[:, 2], found[:, 1])
    assert difference(clip[None, :, :1].expand(1, 3, 5, 9, 11)).abs().max() == 0.0
    assert torch.equal(difference(clip[None, :, :1]), torch.zeros(1, 3, 1, 9, 11))
