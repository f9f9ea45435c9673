"""BYOL against values worked out by hand, its order of operations, and collapse."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vidssl.backbones import Encoder
from vidssl.methods import Batch
from vidssl.methods.byol import BYOL, Config, distance

Build = Callable[[], Encoder]


def clips(count: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(count, 3, 2, 4, 4)


def method(encoder: Encoder, **settings: object) -> BYOL:
    options = {"hidden": 8, "dim": 4, **settings}
    return Config.model_validate(options).build(encoder)


def test_the_distance_is_two_less_twice_the_cosine() -> None:
    # cos((3, 4), (4, 3)) = 24 / 25: 0.08. The same: 0. Opposite: 4. At right angles: 2.
    p = torch.tensor([[3.0, 4.0], [1.0, 2.0], [1.0, 2.0], [1.0, 0.0]])
    target = torch.tensor([[4.0, 3.0], [2.0, 4.0], [-1.0, -2.0], [0.0, 7.0]])
    for row, expected in enumerate([0.08, 0.0, 4.0, 2.0]):
        one = distance(p[row : row + 1], target[row : row + 1])
        assert one.item() == pytest.approx(expected, abs=1e-6)
    assert distance(p, target).item() == pytest.approx((0.08 + 4.0 + 2.0) / 4, abs=1e-6)


def test_only_directions_count_and_in_full_precision() -> None:
    torch.manual_seed(0)
    p, target = torch.randn(5, 4), torch.randn(5, 4)
    expected = distance(p, target).item()
    assert distance(1000 * p, 0.01 * target).item() == pytest.approx(expected, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert distance(p, target).item() == expected


def test_unrelated_features_cost_two_for_each_clip() -> None:
    torch.manual_seed(0)
    p, target = torch.randn(4096, 256), torch.randn(4096, 256)
    assert distance(p, target).item() == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_clip_predicts_the_mean_of_all_others(count: int, mean_colour: Build) -> None:
    torch.manual_seed(0)
    byol = method(mean_colour(), clips=count, momentum=1.0)
    views = tuple(clips(6) for _ in range(count))
    slow = 0.0
    with torch.no_grad():
        for i, one in enumerate(views):
            p = byol.predictor(byol.projector(byol.encoder(one)))
            for j, other in enumerate(views):
                k = byol.target_projector(byol.target_encoder(other))
                cos = (p * k).sum(1) / (p.norm(dim=1) * k.norm(dim=1))
                slow += float((2 - 2 * cos).mean()) / (count - 1) if i != j else 0.0
    assert byol(Batch(views)).loss.item() == pytest.approx(slow, rel=1e-5)
    assert byol.num_views == count


def test_the_heads_have_the_published_size(mean_colour: Build) -> None:
    encoder = mean_colour()
    encoder.features = 2048
    byol = Config().build(encoder)
    assert sum(p.numel() for p in byol.projector.parameters()) == 9_445_632
    assert sum(p.numel() for p in byol.predictor.parameters()) == 2_105_600


def test_gradient_reaches_encoder_projector_and_predictor_alone(mean_colour: Build) -> None:
    byol = method(mean_colour())
    byol(Batch((clips(4), clips(4)))).loss.backward()
    trained = {name for name, p in byol.named_parameters() if p.grad is not None}
    online = ("encoder.", "projector.", "predictor.")
    assert trained == {name for name, _ in byol.named_parameters() if name.startswith(online)}
    frozen = [p for name, p in byol.named_parameters() if name.startswith("target_")]
    assert len(frozen) == 1 + len(list(byol.projector.parameters()))
    assert not any(p.requires_grad for p in frozen)


def test_the_gradient_takes_targets_as_constants(mean_colour: Build) -> None:
    # With a momentum of 0 the targets come from the same weights: were they followed, the gradient
    # would be another.
    torch.manual_seed(0)
    byol = method(mean_colour(), momentum=0.0)
    one, two = clips(6), clips(6)
    byol(Batch((one, two))).loss.backward()
    got = {name: p.grad.clone() for name, p in byol.named_parameters() if p.grad is not None}
    for stopped in (True, False):
        byol.zero_grad()
        z = [byol.projector(byol.encoder(c)) for c in (one, two)]
        k = [x.detach() if stopped else x for x in z]
        p = [byol.predictor(x) for x in z]
        torch.autograd.backward(distance(p[0], k[1]) + distance(p[1], k[0]))
        same = [
            torch.allclose(got[name], p.grad, atol=1e-6)
            for name, p in byol.named_parameters()
            if p.grad is not None and name.startswith(("encoder.", "projector."))
        ]
        assert all(same) == stopped


def test_the_predictor_does_not_touch_the_targets(mean_colour: Build) -> None:
    torch.manual_seed(0)
    byol = method(mean_colour(), momentum=1.0)
    views = clips(4)
    before = byol._target(views)
    with torch.no_grad():
        for parameter in byol.predictor.parameters():
            parameter.add_(1.0)
    byol(Batch((views, clips(4))))
    assert torch.allclose(byol._target(views), before, atol=1e-6)


def test_the_average_moves_before_the_targets_are_made(mean_colour: Build) -> None:
    torch.manual_seed(0)
    for momentum in (0.0, 1.0, 0.5):
        byol = method(mean_colour(), momentum=momentum)
        pairs = (byol.encoder, byol.target_encoder), (byol.projector, byol.target_projector)
        expected = []
        for net, twin in pairs:
            for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
                with torch.no_grad():
                    mine.add_(torch.randn_like(mine))
                expected.append(momentum * theirs + (1 - momentum) * mine.detach())
        one, two = clips(5), clips(5)
        loss = byol(Batch((one, two))).loss.item()
        moved = [p for _, twin in pairs for p in twin.parameters()]
        assert all(torch.allclose(a, b) for a, b in zip(moved, expected, strict=True))
        # The targets of this step are those of the moved average.
        with torch.no_grad():
            p = [byol.predictor(byol.projector(byol.encoder(c))) for c in (one, two)]
            k = [byol._target(c) for c in (two, one)]
        again = sum(distance(*pair).item() for pair in zip(p, k, strict=True))
        assert loss == pytest.approx(again, rel=1e-5)


def test_the_average_rests_outside_training(mean_colour: Build) -> None:
    byol = method(mean_colour(), momentum=0.0).eval()
    before = [p.clone() for p in byol.target_projector.parameters()]
    with torch.no_grad():
        for parameter in byol.projector.parameters():
            parameter.add_(1.0)
    byol(Batch((clips(4), clips(4))))
    now = byol.target_projector.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))


def test_the_target_network_normalises_by_what_it_sees_itself(normed: Build) -> None:
    # Weights are averaged, statistics are not: the second step's targets see clips ten times as
    # wide, and the network itself does not.
    torch.manual_seed(0)
    byol = method(normed(), momentum=0.0)
    assert byol.target_encoder.training
    for _ in range(3):
        byol._target(clips(6, scale=10.0))
        byol.projector(byol.encoder(clips(6)))
    byol(Batch((clips(6), clips(6))))
    wide, narrow = (
        dict(e.named_buffers())["norm.running_var"].mean()
        for e in (byol.target_encoder, byol.encoder)
    )
    assert wide > 5 * narrow


def test_the_momentum_rises_along_a_cosine_to_one(mean_colour: Build) -> None:
    byol = method(mean_colour())
    # 1 - 0.004 (cos(pi p) + 1) / 2
    for progress, expected in [(0.0, 0.996), (0.5, 0.998), (1.0, 1.0)]:
        byol.after_step(progress)
        assert byol.momentum.value == pytest.approx(expected, abs=1e-12)
    still = method(mean_colour(), anneal=False)
    still.after_step(0.5)
    assert still.momentum.value == 0.996


def train(byol: BYOL, steps: int) -> list[dict[str, float]]:
    """64 videos, each a colour; two clips of one share it, up to noise."""
    colours = torch.randn(64, 3, 1, 1, 1)
    optimizer = torch.optim.SGD([p for p in byol.parameters() if p.requires_grad], 0.05, 0.9)
    history = []
    for step in range(steps):
        chosen = colours[torch.randperm(64)[:16]]
        output = byol(Batch(tuple(chosen + clips(16, scale=0.3) for _ in range(2)), step))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        byol.after_step(step / steps)
        scalars = {name: float(value) for name, value in output.scalars.items()}
        history.append({"loss": output.loss.item(), **scalars})
    return history


def mean(rows: list[dict[str, float]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def test_training_pulls_clips_together_and_does_not_collapse(mean_colour: Build) -> None:
    torch.manual_seed(0)
    history = train(method(mean_colour(), hidden=64, dim=8, momentum=0.95), 150)
    first, last = history[:10], history[-10:]
    assert mean(last, "loss") < mean(first, "loss") / 4
    assert mean(last, "feature_std") > 0.6
    assert mean(last, "positive_similarity") > mean(last, "negative_similarity") + 0.5


def test_without_the_predictor_the_same_training_collapses(mean_colour: Build) -> None:
    # The average is the network itself here, so that 150 steps are enough to show it.
    spread = {}
    for predictor in (True, False):
        torch.manual_seed(0)
        byol = method(mean_colour(), hidden=64, dim=8, momentum=0.0, anneal=False)
        if not predictor:
            byol.predictor = nn.Sequential()
        spread[predictor] = mean(train(byol, 150)[-10:], "feature_std")
    assert spread[True] > 0.8
    assert spread[False] < 0.3
