"""SwAV against values worked out by hand, what its gradient reaches, and collapse."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidssl.backbones import Encoder
from vidssl.methods import Batch
from vidssl.methods.swav import Config, SwAV, cross_entropy
from vidssl.nn.prototypes import equal_codes

Build = Callable[[], Encoder]


def clips(count: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(count, 3, 2, 4, 4)


def method(encoder: Encoder, **settings: object) -> SwAV:
    options = {"hidden": 8, "dim": 4, "prototypes": 5, **settings}
    return Config.model_validate(options).build(encoder)


def lengths(swav: SwAV) -> list[float]:
    return [float(row.norm()) for row in swav.prototypes.weight.detach()]


def test_the_loss_of_a_direction_by_hand() -> None:
    # Scores (0.1, 0) at a temperature of 0.1 are logits (1, 0): log softmax (-0.3132617,
    # -1.3132617). Codes (0.75, 0.25): 0.2349463 + 0.3283154 = 0.5632617.
    scores, codes = torch.tensor([[0.1, 0.0]]), torch.tensor([[0.75, 0.25]])
    assert cross_entropy(scores, codes, 0.1).item() == pytest.approx(0.5632617, rel=1e-6)


def test_equal_scores_cost_the_log_of_the_number_of_prototypes(mean_colour: Build) -> None:
    # ln 1000 = 6.9077553
    scores = torch.full((4, 1000), 0.2)
    codes = equal_codes(scores, 0.05, 3)
    assert cross_entropy(scores, codes, 0.1).item() == pytest.approx(6.9077553, rel=1e-5)
    assert math.log(1000) == pytest.approx(6.9077553)
    # And so it begins: all clips alike, all prototypes alike.
    swav = method(mean_colour())
    with torch.no_grad():
        swav.prototypes.weight.copy_(swav.prototypes.weight[:1].clone().expand(5, 4))
    loss = swav(Batch((clips(4), clips(4)))).loss.item()
    assert loss == pytest.approx(math.log(5), rel=1e-5)


@pytest.mark.parametrize("count", [2, 3])
def test_every_clip_predicts_the_codes_of_all_others(count: int, mean_colour: Build) -> None:
    torch.manual_seed(0)
    swav = method(mean_colour(), clips=count)
    views = tuple(clips(6) for _ in range(count))
    with torch.no_grad():
        z = [F.normalize(swav.projector(swav.encoder(view)), dim=1) for view in views]
        scores = [x @ F.normalize(swav.prototypes.weight, dim=1).T for x in z]
    codes = [equal_codes(s, 0.05, 3) for s in scores]
    slow = [
        -float((codes[j] * (scores[i] / 0.1).softmax(1).log()).sum(1).mean())
        for i in range(count)
        for j in range(count)
        if i != j
    ]
    loss = swav(Batch(views)).loss.item()
    assert loss == pytest.approx(sum(slow) / len(slow), rel=1e-5)
    assert swav.num_views == count


def test_the_head_has_the_published_form(mean_colour: Build) -> None:
    encoder = mean_colour()
    encoder.features = 2048
    swav = Config().build(encoder)
    # 2 (2048 x 2048 + 2 x 2048) + 2048 x 128 + 128 and 1000 x 128, without a bias.
    assert sum(p.numel() for p in swav.projector.parameters()) == 8_659_072
    assert sum(p.numel() for p in swav.prototypes.parameters()) == 128_000
    two = Config(layers=2).build(encoder)
    assert sum(p.numel() for p in two.projector.parameters()) == 8_659_072 - 2048 * 2050


def test_prototypes_are_put_on_unit_length_before_each_step(mean_colour: Build) -> None:
    torch.manual_seed(0)
    swav = method(mean_colour())
    with torch.no_grad():
        swav.prototypes.weight.mul_(3.0)
    batch = Batch((clips(4), clips(4)))
    one = swav(batch).loss.item()
    assert lengths(swav) == pytest.approx([1.0] * 5, rel=1e-6)
    assert swav(batch).loss.item() == pytest.approx(one, rel=1e-6)  # it was the length of 1


def test_prototypes_rest_outside_training(mean_colour: Build) -> None:
    swav = method(mean_colour()).eval()
    with torch.no_grad():
        swav.prototypes.weight.mul_(3.0)
    swav(Batch((clips(4), clips(4))))
    assert lengths(swav) == pytest.approx([3.0] * 5, rel=1e-6)


def test_gradient_reaches_everything_but_flows_through_no_code(mean_colour: Build) -> None:
    torch.manual_seed(0)
    swav = method(mean_colour())
    one, two = clips(6), clips(6)
    torch.autograd.backward(swav(Batch((one, two))).loss)
    grads = {name: p.grad for name, p in swav.named_parameters() if p.grad is not None}
    assert grads.keys() == dict(swav.named_parameters()).keys()
    assert all(grad.abs().max() > 0 for grad in grads.values())
    # Codes as constants: the same gradient, by autograd from the loss of fixed codes.
    z = [F.normalize(swav.projector(swav.encoder(c)), dim=1) for c in (one, two)]
    scores = [x @ swav.prototypes.weight.T for x in z]
    codes = [equal_codes(s, 0.05, 3).clone() for s in scores]
    direct = sum(
        -(codes[1 - i] * F.log_softmax(scores[i] / 0.1, dim=1)).sum(1).mean() / 2 for i in (0, 1)
    )
    assert isinstance(direct, Tensor)
    again = torch.autograd.grad(direct, list(swav.parameters()))
    for (name, grad), other in zip(grads.items(), again, strict=True):
        assert torch.allclose(grad, other, atol=1e-6), name


def test_prototypes_rest_for_as_many_steps_as_asked(mean_colour: Build) -> None:
    torch.manual_seed(0)
    swav = method(mean_colour(), frozen_prototypes=3)
    optimizer = torch.optim.SGD(swav.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    start = swav.prototypes.weight.detach().clone()
    moved = []
    for step in range(5):
        optimizer.zero_grad()
        torch.autograd.backward(swav(Batch((clips(6), clips(6)), step)).loss)
        assert swav.prototypes.weight.grad is not None  # DDP waits for one
        optimizer.step()
        directions = F.normalize(swav.prototypes.weight.detach(), dim=1)
        moved.append(not torch.allclose(directions, start, atol=1e-6))
    assert moved == [False, False, False, True, True]


def test_training_pulls_clips_together_and_does_not_collapse(mean_colour: Build) -> None:
    # 64 videos, each a colour; two clips of one share it, up to noise.
    torch.manual_seed(0)
    swav = method(mean_colour(), hidden=64, dim=8, prototypes=12)
    colours = torch.randn(64, 3, 1, 1, 1)
    optimizer = torch.optim.SGD(swav.parameters(), lr=0.05, momentum=0.9)
    history = []
    for step in range(150):
        chosen = colours[torch.randperm(64)[:32]]
        output = swav(Batch(tuple(chosen + clips(32, scale=0.3) for _ in range(2)), step))
        optimizer.zero_grad()
        torch.autograd.backward(output.loss)
        optimizer.step()
        scalars = {name: float(value) for name, value in output.scalars.items()}
        history.append({"loss": output.loss.item(), **scalars})

    def mean(rows: list[dict[str, float]], name: str) -> float:
        return sum(row[name] for row in rows) / len(rows)

    first, last = history[:10], history[-10:]
    assert mean(last, "loss") < mean(first, "loss") - 0.5
    assert mean(last, "feature_std") > 0.6
    assert mean(last, "positive_similarity") > mean(last, "negative_similarity") + 0.5
