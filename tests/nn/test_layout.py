"""How networks lie in memory: faster, with the same values."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch.profiler import profile

from vidssl.backbones import slow, slowfast
from vidssl.nn.layout import laid_out

CPU = torch.device("cpu")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread, as each of many processes does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[slow.Config(frames=4, width=8), slowfast.Config(frames=32, width=16)])
def config(request: pytest.FixtureRequest) -> slow.Config | slowfast.Config:
    """A narrow backbone's."""
    torch.manual_seed(0)
    chosen: slow.Config | slowfast.Config = request.param
    return chosen


def test_values_and_gradients_are_those_of_the_network_as_it_was_built(
    config: slow.Config | slowfast.Config,
) -> None:
    encoder = config.build().eval()  # the statistics of two clips would multiply every rounding
    other = laid_out(copy.deepcopy(encoder), CPU)
    clips = torch.randn(2, 3, config.frames, 32, 32)
    expected, given = encoder(clips), other(clips)
    torch.testing.assert_close(given, expected)
    expected.square().sum().backward()
    given.square().sum().backward()
    for (name, one), two in zip(encoder.named_parameters(), other.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        scale = float(one.grad.abs().max())
        torch.testing.assert_close(two.grad, one.grad, rtol=0, atol=1e-4 * scale, msg=name)
    assert other.state_dict().keys() == encoder.state_dict().keys()


@pytest.mark.usefixtures("one_thread")
def test_no_convolution_is_left_to_the_slow_loop_of_one_thread(
    config: slow.Config | slowfast.Config,
) -> None:
    encoder = config.build()
    clips = torch.randn(2, 3, config.frames, 32, 32)
    called = {}
    for name, network in {"plain": encoder, "ours": laid_out(copy.deepcopy(encoder), CPU)}.items():
        with profile() as seen:
            network(clips).sum().backward()
        called[name] = {event.key for event in seen.key_averages()}
    assert "aten::slow_conv3d_forward" in called["plain"]  # else there is nothing to mend any more
    assert "aten::slow_conv3d_forward" not in called["ours"]
