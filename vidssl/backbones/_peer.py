"""pytorchvideo's own Slow and SlowFast classifiers, to measure ours against.

Tensor suffixes: B clips, C channels, T frames, H and W pixels, K classes.
"""

from torch import Tensor, nn

from vidssl.backbones import slow, slowfast
from vidssl.backbones._adapter import importing_pytorchvideo

CLASSES = 400


class Peer(nn.Module):
    """pytorchvideo's network, fed with clips as ours are: ``(B, C, T, H, W) -> (B, K)``."""

    def __init__(self, network: nn.Module, alpha: int | None) -> None:
        """``alpha`` is SlowFast's ratio of frames, None for a single pathway."""
        super().__init__()
        self.network = network
        self.alpha = alpha

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        """Return the logits."""
        inputs: Tensor | list[Tensor] = clips_BCTHW
        if self.alpha is not None:
            T = clips_BCTHW.shape[2]
            chosen = slowfast.slow_frames(T, self.alpha, clips_BCTHW.device)
            inputs = [clips_BCTHW[:, :, chosen], clips_BCTHW]
        logits_BK: Tensor = self.network(inputs)
        return logits_BK


def peer(config: slow.Config | slowfast.Config, crop_px: int) -> Peer:
    """Return pytorchvideo's R50 with the clip of ``config``, whose other options do not matter.

    Weights are fresh. Its head pools a window of ``crop_px / 32`` cells, so it takes clips of that
    size only.
    """
    cells = crop_px // 32
    if isinstance(config, slow.Config):
        with importing_pytorchvideo():
            from pytorchvideo.models.resnet import create_resnet
        network = create_resnet(
            stem_conv_kernel_size=(1, 7, 7),
            head_pool_kernel_size=(config.frames, cells, cells),
            model_num_class=CLASSES,
        )
        return Peer(network, None)
    with importing_pytorchvideo():
        from pytorchvideo.models.slowfast import create_slowfast
    frames, alpha = config.frames, config.alpha
    network = create_slowfast(
        slowfast_channel_reduction_ratio=(8,),
        slowfast_conv_channel_fusion_ratio=2,
        slowfast_fusion_conv_kernel_size=(config.fusion_kernel, 1, 1),
        slowfast_fusion_conv_stride=(alpha, 1, 1),
        head_pool_kernel_sizes=((frames // alpha, cells, cells), (frames, cells, cells)),
        model_num_class=CLASSES,
    )
    return Peer(network, alpha)
