"""What a GPU adds: half precision, compilation, and how much recomputing saves there."""

import pytest
import torch
from torch import Tensor, nn

from vidssl.backbones import BackboneConfig, slow, slowfast
from vidssl.train.optim import OptimConfig, optimizer

pytestmark = pytest.mark.gpu

CONFIGS = (slow.Config(width=16), slowfast.Config(width=16))


def clips(config: BackboneConfig, batch: int = 4, side_px: int = 112) -> Tensor:
    torch.manual_seed(0)
    given = torch.rand(batch, 3, config.frames, side_px, side_px, device="cuda")
    return given.contiguous(memory_format=torch.channels_last_3d)


def placed(config: BackboneConfig) -> nn.Module:
    torch.manual_seed(0)
    return config.build().cuda().to(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("config", CONFIGS)
def test_features_are_the_cpus(config: BackboneConfig) -> None:
    encoder = placed(config).eval()
    given = clips(config, batch=1)
    with torch.no_grad():
        found = encoder(given).cpu()
        torch.testing.assert_close(found, encoder.cpu()(given.cpu()), rtol=1e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_a_compiled_step_in_half_precision_learns(config: BackboneConfig) -> None:
    encoder = placed(config)
    encoder.compile()
    update = optimizer(encoder, OptimConfig(lr=0.01, batch=4, steps=1))
    assert update.defaults["fused"]
    given, losses = clips(config), []
    for _ in range(10):
        with torch.autocast("cuda", torch.bfloat16):
            loss = (encoder(given) - 1).square().mean()
        torch.autograd.backward(loss)
        update.step()
        update.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]


def test_recomputed_activations_save_two_fifths_of_the_memory() -> None:
    def peak(config: slowfast.Config) -> int:
        encoder = placed(config)
        given = clips(config, batch=8, side_px=224)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", torch.bfloat16):
            loss = encoder(given).square().mean()
        torch.autograd.backward(loss)
        return torch.cuda.max_memory_allocated() - before

    plain = slowfast.Config()
    assert peak(plain.model_copy(update={"activation_checkpointing": True})) < 0.6 * peak(plain)
