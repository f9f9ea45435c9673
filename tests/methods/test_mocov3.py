"""MoCo v3 against values worked out by hand, its order of operations, and collapse."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidssl.backbones import Encoder
from vidssl.methods import Batch
from vidssl.methods.mocov3 import Config, MoCoV3, contrast

Build = Callable[[], Encoder]


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=1)


def clips(count: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(count, 3, 2, 4, 4)


def method(encoder: Encoder, **settings: object) -> MoCoV3:
    options = {"hidden": 8, "dim": 4, **settings}
    return Config.model_validate(options).build(encoder)


class Constant(nn.Module):
    """The same feature for every clip."""

    def forward(self, x_BD: Tensor) -> Tensor:
        return torch.ones(len(x_BD), 4)


def test_the_loss_equals_a_slow_softmax() -> None:
    torch.manual_seed(0)
    q, keys = unit(5, 4), unit(5, 4)
    slow = 0.0
    for i in range(5):
        all_keys = sum(math.exp(float(q[i] @ key) / 0.3) for key in keys)
        slow -= math.log(math.exp(float(q[i] @ keys[i]) / 0.3) / all_keys) / 5
    assert contrast(q, keys, 0.3).item() == pytest.approx(slow, rel=1e-5)


def test_the_similarities_are_computed_in_full_precision() -> None:
    torch.manual_seed(0)
    q, keys = unit(5, 64), unit(5, 64)
    full = contrast(q, keys, 0.07).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert contrast(q, keys, 0.07).item() == full


def test_two_clips_by_hand() -> None:
    # A temperature of 1. Similarities 1 (own) and 0 for both: ln(1 + 1 / e) = 0.3132617.
    q = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert contrast(q, keys, 1.0).item() == pytest.approx(0.3132617, rel=1e-6)
    keys = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
    # 0.8 (own) and 0.6 for both: ln(1 + exp(-0.2)) = 0.5981389.
    assert contrast(q, keys, 1.0).item() == pytest.approx(0.5981389, rel=1e-6)


def test_equal_logits_cost_what_the_published_batch_gives() -> None:
    # 4 T ln 4096 = 4 x 8.3177662 = 33.2710647 at T 1, for both directions.
    one = F.normalize(torch.ones(1, 8), dim=1)
    both = 2 * 1.0 * 2 * contrast(one.expand(4096, 8), one.expand(4096, 8), 1.0).item()
    assert both == pytest.approx(33.27, abs=0.005)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("count", [2, 3])
def test_a_collapsed_method_costs_two_t_rho_ln_g(
    temperature: float, count: int, mean_colour: Build
) -> None:
    moco = method(mean_colour(), temperature=temperature, clips=count)
    moco.predictor, moco.key_projector = nn.Sequential(Constant()), nn.Sequential(Constant())
    moco.eval()  # the average of another form is not to be followed
    loss = moco(Batch(tuple(clips(6) for _ in range(count)))).loss.item()
    assert loss == pytest.approx(2 * temperature * count * math.log(6), rel=1e-5)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_clip_looks_for_all_others(count: int, mean_colour: Build) -> None:
    torch.manual_seed(0)
    moco = method(mean_colour(), clips=count, momentum=1.0, temperature=0.2)
    views = tuple(clips(6) for _ in range(count))
    slow = 0.0
    with torch.no_grad():
        q = [F.normalize(moco.predictor(moco.projector(moco.encoder(v))), dim=1) for v in views]
        k = [F.normalize(moco.key_projector(moco.key_encoder(v)), dim=1) for v in views]
    for i in range(count):
        for j in range(count):
            probability = (q[i] @ k[j].T / 0.2).softmax(dim=1).diagonal()
            slow -= float(probability.log().mean()) / (count - 1) if i != j else 0.0
    assert moco(Batch(views)).loss.item() == pytest.approx(2 * 0.2 * slow, rel=1e-5)
    assert moco.num_views == count


def test_the_heads_have_the_published_form(mean_colour: Build) -> None:
    encoder = mean_colour()
    encoder.features = 2048
    moco = Config().build(encoder)
    # No bias anywhere, no affine at the projector's end: 2048 x 4096 + 2 x 4096 + 4096 x 256.
    assert sum(p.numel() for p in moco.projector.parameters()) == 9_445_376
    # 256 x 4096 + 2 x 4096 + 4096 x 256.
    assert sum(p.numel() for p in moco.predictor.parameters()) == 2_105_344
    out = moco.projector(torch.randn(64, 2048))
    assert torch.allclose(out.mean(dim=0), torch.zeros(256), atol=1e-5)
    transformer = Config(layers=3, predictor_norm=True).build(encoder)
    # One layer more of 4096 x 4096 + 2 x 4096; the norm at the end has no weights.
    more = 4096 * 4096 + 2 * 4096
    assert sum(p.numel() for p in transformer.projector.parameters()) == 9_445_376 + more
    assert sum(p.numel() for p in transformer.predictor.parameters()) == 2_105_344
    assert [type(m).__name__ for m in moco.predictor][-1] == "Linear"
    assert [type(m).__name__ for m in transformer.predictor][-1] == "HeadNorm"


def test_gradient_reaches_encoder_projector_and_predictor_alone(mean_colour: Build) -> None:
    moco = method(mean_colour())
    torch.autograd.backward(moco(Batch((clips(4), clips(4)))).loss)
    trained = {name for name, p in moco.named_parameters() if p.grad is not None}
    online = ("encoder.", "projector.", "predictor.")
    assert trained == {name for name, _ in moco.named_parameters() if name.startswith(online)}
    frozen = [p for name, p in moco.named_parameters() if name.startswith("key_")]
    assert len(frozen) == 1 + len(list(moco.projector.parameters()))
    assert not any(p.requires_grad for p in frozen)


def test_the_gradient_takes_keys_as_constants(mean_colour: Build) -> None:
    # With a momentum of 0 the keys come from the same weights.
    torch.manual_seed(0)
    moco = method(mean_colour(), momentum=0.0)
    one, two = clips(6), clips(6)
    torch.autograd.backward(moco(Batch((one, two))).loss)
    got = {n: p.grad.clone() for n, p in moco.named_parameters() if p.grad is not None}
    for stopped in (True, False):
        moco.zero_grad()
        z = [moco.projector(moco.encoder(c)) for c in (one, two)]
        k = [F.normalize(x.detach() if stopped else x, dim=1) for x in z]
        q = [F.normalize(moco.predictor(x), dim=1) for x in z]
        torch.autograd.backward(2 * (contrast(q[0], k[1], 1.0) + contrast(q[1], k[0], 1.0)))
        same = [
            torch.allclose(got[name], p.grad, atol=1e-6)
            for name, p in moco.named_parameters()
            if p.grad is not None and name.startswith(("encoder.", "projector."))
        ]
        assert all(same) == stopped


def test_the_average_moves_before_the_keys_are_made(mean_colour: Build) -> None:
    torch.manual_seed(0)
    for momentum in (0.0, 1.0, 0.5):
        moco = method(mean_colour(), momentum=momentum)
        pairs = (moco.encoder, moco.key_encoder), (moco.projector, moco.key_projector)
        expected = []
        for net, twin in pairs:
            for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
                with torch.no_grad():
                    mine.add_(torch.randn_like(mine))
                expected.append(momentum * theirs + (1 - momentum) * mine.detach())
        one, two = clips(5), clips(5)
        loss = moco(Batch((one, two))).loss.item()
        moved = [p for _, twin in pairs for p in twin.parameters()]
        assert all(torch.allclose(a, b) for a, b in zip(moved, expected, strict=True))
        with torch.no_grad():
            q = [moco._queries(c) for c in (one, two)]
        again = contrast(q[0], moco._keys(two), 1.0) + contrast(q[1], moco._keys(one), 1.0)
        assert loss == pytest.approx(2 * again.item(), rel=1e-5)


def test_the_average_rests_outside_training(mean_colour: Build) -> None:
    moco = method(mean_colour(), momentum=0.0).eval()
    before = [p.clone() for p in moco.key_projector.parameters()]
    with torch.no_grad():
        for parameter in moco.projector.parameters():
            parameter.add_(1.0)
    moco(Batch((clips(4), clips(4))))
    now = moco.key_projector.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))


def test_the_key_network_normalises_by_what_it_sees_itself(normed: Build) -> None:
    torch.manual_seed(0)
    moco = method(normed(), momentum=0.0)
    for _ in range(3):
        moco._keys(clips(6, scale=10.0))
        moco._queries(clips(6))
    moco(Batch((clips(6), clips(6))))
    wide, narrow = (
        dict(e.named_buffers())["norm.running_var"].mean() for e in (moco.key_encoder, moco.encoder)
    )
    assert wide > 5 * narrow


def test_the_momentum_rises_along_a_cosine_to_one(mean_colour: Build) -> None:
    moco = method(mean_colour())
    # 1 - 0.01 (cos(pi p) + 1) / 2
    for progress, expected in [(0.0, 0.99), (0.5, 0.995), (1.0, 1.0)]:
        moco.after_step(progress)
        assert moco.momentum.value == pytest.approx(expected, abs=1e-12)
    still = method(mean_colour(), anneal=False)
    still.after_step(0.5)
    assert still.momentum.value == 0.99


def test_training_tells_videos_apart_and_does_not_collapse(mean_colour: Build) -> None:
    # 64 videos, each a colour; two clips of one share it, up to noise.
    torch.manual_seed(0)
    moco = method(mean_colour(), hidden=64, dim=8, momentum=0.9, temperature=0.2)
    colours = torch.randn(64, 3, 1, 1, 1)
    optimizer = torch.optim.SGD([p for p in moco.parameters() if p.requires_grad], 0.05, 0.9)
    history = []
    for step in range(150):
        chosen = colours[torch.randperm(64)[:16]]
        output = moco(Batch(tuple(chosen + clips(16, scale=0.3) for _ in range(2)), step))
        optimizer.zero_grad()
        torch.autograd.backward(output.loss)
        optimizer.step()
        moco.after_step(step / 150)
        scalars = {name: float(value) for name, value in output.scalars.items()}
        history.append({"loss": output.loss.item(), **scalars})

    def mean(rows: list[dict[str, float]], name: str) -> float:
        return sum(row[name] for row in rows) / len(rows)

    first, last = history[:10], history[-10:]
    assert mean(last, "loss") < mean(first, "loss") - 0.5
    assert mean(last, "feature_std") > 0.6
    assert mean(last, "top1") > 0.9
    assert mean(last, "positive_similarity") > mean(last, "negative_similarity") + 0.5
