"""MoCo against values of the papers' formula, its order of operations, and collapse."""

import json
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidssl.backbones import Encoder
from vidssl.methods import Batch
from vidssl.methods.moco import Config, MoCo, contrast, health

Build = Callable[[], Encoder]


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=1)


def clips(count: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(count, 3, 2, 4, 4)


def method(encoder: Encoder, **settings: object) -> MoCo:
    options = {"queue": 8, "hidden": 6, "dim": 4, "key_groups": 1, **settings}
    return Config.model_validate(options).build(encoder)


def direct_keys(moco: MoCo, views: Tensor) -> Tensor:
    """Keys without shuffling, groups or queue."""
    with torch.no_grad():
        return F.normalize(moco.key_projector(moco.key_encoder(views)), dim=1)


@pytest.mark.parametrize("negatives", [1, 10, 65536])
def test_equal_logits_cost_the_log_of_their_number(negatives: int) -> None:
    # Every similarity is 1: the softmax over the key and K negatives is 1 / (1 + K).
    one = F.normalize(torch.ones(1, 4))
    loss = contrast(one.expand(3, 4), one.expand(3, 4), one.expand(negatives, 4), 0.2)
    assert loss.item() == pytest.approx(math.log(1 + negatives), rel=1e-5)


@pytest.mark.parametrize(("temperature", "expected"), [(0.07, 0.087), (0.1, 1.69), (0.2, 6.19)])
def test_a_query_that_equals_its_key_costs_what_the_papers_setting_gives(
    temperature: float, expected: float
) -> None:
    # 65536 random keys of 128 numbers, as in the image version.
    torch.manual_seed(0)
    q, queue = unit(64, 128), unit(65536, 128)
    assert contrast(q, q, queue, temperature).item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("temperature", "expected"), [(0.07, 11.96), (0.1, 11.54), (0.2, 11.22)])
def test_a_query_and_key_of_chance_cost_what_the_papers_setting_gives(
    temperature: float, expected: float
) -> None:
    torch.manual_seed(0)
    q, k, queue = unit(512, 128), unit(512, 128), unit(65536, 128)
    assert contrast(q, k, queue, temperature).item() == pytest.approx(expected, abs=0.12)


def test_the_loss_equals_a_slow_softmax() -> None:
    torch.manual_seed(0)
    q, k, queue = unit(5, 4), unit(5, 4), unit(7, 4)
    slow = 0.0
    for i in range(5):
        own = math.exp(float(q[i] @ k[i]) / 0.3)
        others = sum(math.exp(float(q[i] @ row) / 0.3) for row in queue)
        slow -= math.log(own / (own + others)) / 5
    assert contrast(q, k, queue, 0.3).item() == pytest.approx(slow, rel=1e-5)


def test_the_similarities_are_computed_in_full_precision() -> None:
    torch.manual_seed(0)
    q, k, queue = unit(5, 4), unit(5, 4), unit(7, 4)
    full = contrast(q, k, queue, 0.07)
    with torch.autocast("cpu", torch.bfloat16):
        assert contrast(q, k, queue, 0.07).item() == full.item()


def test_keys_enter_behind_the_pointer_and_go_round(mean_colour: Build) -> None:
    moco = method(mean_colour(), queue=5)  # not a multiple of the batch
    start = moco.queue.clone()
    first, second, third = (torch.full((2, 4), float(n)) for n in (1, 2, 3))
    moco._enqueue(first)
    assert torch.equal(moco.queue, torch.cat([first, start[2:]]))
    moco._enqueue(second)
    assert torch.equal(moco.queue, torch.cat([first, second, start[4:]]))
    assert moco.pointer.item() == 4
    moco._enqueue(third)  # rows 4 and 0
    assert torch.equal(moco.queue, torch.cat([third[1:], first[1:], second, third[:1]]))
    assert moco.pointer.item() == 1


def test_a_batch_larger_than_the_queue_leaves_its_last_keys(mean_colour: Build) -> None:
    moco = method(mean_colour(), queue=3)
    moco._enqueue(torch.zeros(1, 4))
    moco._enqueue(torch.arange(20.0).reshape(5, 4))
    assert {float(row[0]) for row in moco.queue} == {8.0, 12.0, 16.0}


def test_the_keys_of_a_step_are_no_negatives_of_the_same_step(mean_colour: Build) -> None:
    # With a queue of the batch's size, keys that entered before the loss would replace them all.
    torch.manual_seed(0)
    moco = method(mean_colour(), queue=4, momentum=1.0, symmetric=False)
    one, two = clips(4), clips(4)
    before = moco.queue.clone()
    with torch.no_grad():
        q = F.normalize(moco.projector(moco.encoder(one)), dim=1)
    keys = direct_keys(moco, two)
    expected = contrast(q, keys, before, 0.2).item()
    assert moco(Batch((one, two))).loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(moco.queue, keys, atol=1e-6)
    assert contrast(q, keys, moco.queue, 0.2).item() != pytest.approx(expected, rel=1e-3)


def test_both_clips_are_queries_and_both_keys_enter(mean_colour: Build) -> None:
    torch.manual_seed(0)
    moco = method(mean_colour(), queue=8, momentum=1.0)
    one, two = clips(4), clips(4)
    before = moco.queue.clone()
    losses = []
    for query, key in ((one, two), (two, one)):
        with torch.no_grad():
            q = F.normalize(moco.projector(moco.encoder(query)), dim=1)
        losses.append(contrast(q, direct_keys(moco, key), before, 0.2).item())
    assert moco(Batch((one, two))).loss.item() == pytest.approx(sum(losses) / 2, rel=1e-5)
    expected = torch.cat([direct_keys(moco, two), direct_keys(moco, one)])
    assert torch.allclose(moco.queue, expected, atol=1e-6)


def test_a_fresh_queue_is_of_unit_length(mean_colour: Build) -> None:
    moco = method(mean_colour(), queue=100, dim=16)
    assert torch.allclose(moco.queue.norm(dim=1), torch.ones(100))
    assert set(dict(moco.named_buffers())) >= {"queue", "pointer"}  # and so in every checkpoint


def test_the_average_moves_before_the_keys_are_made(mean_colour: Build) -> None:
    torch.manual_seed(0)
    for momentum in (0.0, 1.0, 0.5):
        moco = method(mean_colour(), momentum=momentum, symmetric=False, queue=4)
        mix, key_mix = (dict(e.named_parameters())["mix"] for e in (moco.encoder, moco.key_encoder))
        old = key_mix.clone()
        with torch.no_grad():
            mix.add_(torch.randn(3, 3))
        two = clips(4)
        moco(Batch((clips(4), two)))
        average = momentum * old + (1 - momentum) * mix.detach()
        assert torch.allclose(key_mix, average)
        # The keys that entered are those of the moved average.
        assert torch.allclose(moco.queue, direct_keys(moco, two), atol=1e-6)


def test_the_average_rests_outside_training(mean_colour: Build) -> None:
    moco = method(mean_colour(), momentum=0.0).eval()
    before = [p.clone() for p in moco.key_projector.parameters()]
    with torch.no_grad():
        for parameter in moco.projector.parameters():
            parameter.add_(1.0)
    moco(Batch((clips(4), clips(4))))
    assert all(
        torch.equal(*pair) for pair in zip(before, moco.key_projector.parameters(), strict=True)
    )


def test_no_gradient_reaches_keys_or_queue(mean_colour: Build) -> None:
    moco = method(mean_colour())
    moco(Batch((clips(4), clips(4)))).loss.backward()
    trained = {name for name, p in moco.named_parameters() if p.grad is not None}
    assert trained == {
        name for name, _ in moco.named_parameters() if name.startswith(("encoder.", "projector."))
    }
    assert not any(p.requires_grad for p in moco.key_encoder.parameters())
    assert not moco.queue.requires_grad


def test_statistics_of_the_keys_are_those_of_the_key_encoders_own_clips(normed: Build) -> None:
    moco = method(normed(), momentum=0.0, symmetric=False)
    moco(Batch((clips(6, scale=1.0), clips(6, scale=10.0))))
    spread, key_spread = (
        dict(e.named_buffers())["norm.running_var"].mean() for e in (moco.encoder, moco.key_encoder)
    )
    assert key_spread > 5 * spread


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("step", [0, 1, 17])
def test_keys_come_back_in_the_order_of_their_clips(
    groups: int, step: int, mean_colour: Build
) -> None:
    # Without BatchNorm a key depends on its own clip alone, however it was shuffled.
    torch.manual_seed(0)
    moco = method(mean_colour(), key_groups=groups, momentum=1.0)
    views = clips(7)
    assert torch.allclose(moco._keys(views, step), direct_keys(moco, views), atol=1e-6)


def test_groups_have_statistics_of_their_own_and_change_with_the_step(normed: Build) -> None:
    torch.manual_seed(0)
    together, apart = method(normed(), key_groups=1), method(normed(), key_groups=2)
    apart.load_state_dict(together.state_dict())
    views = clips(8) + torch.randn(8, 3, 1, 1, 1)
    assert not torch.allclose(together._keys(views, 0), apart._keys(views, 0), atol=1e-3)
    assert torch.equal(apart._keys(views, 0), apart._keys(views, 0))
    assert not torch.allclose(apart._keys(views, 0), apart._keys(views, 1), atol=1e-3)


def test_a_batch_of_one_has_one_group(mean_colour: Build) -> None:
    moco = method(mean_colour(), key_groups=2)
    assert math.isfinite(moco(Batch((clips(1), clips(1)))).loss.item())


def test_the_health_of_a_collapsed_batch_shows_it() -> None:
    constant = F.normalize(torch.ones(1, 16)).expand(32, 16)
    values = health(constant, constant, constant[:8])
    assert values["feature_std"].item() == pytest.approx(0.0, abs=1e-6)
    assert values["positive_similarity"].item() == pytest.approx(1.0)
    assert values["negative_similarity"].item() == pytest.approx(1.0)
    assert values["top1"].item() == 0.0  # its key is no nearer than the negatives


def test_the_health_of_features_spread_over_the_sphere_is_one() -> None:
    torch.manual_seed(0)
    q, queue = unit(4000, 16), unit(500, 16)
    values = health(q, q, queue)
    assert values["feature_std"].item() == pytest.approx(1.0, abs=0.02)
    assert values["positive_similarity"].item() == pytest.approx(1.0)
    assert values["negative_similarity"].item() == pytest.approx(0.0, abs=0.01)
    assert values["top1"].item() == 1.0


def test_training_tells_videos_apart_and_does_not_collapse(mean_colour: Build) -> None:
    # 64 videos, each a colour; two clips of one share it, up to noise.
    torch.manual_seed(0)
    moco = method(mean_colour(), queue=64, hidden=32, dim=8, momentum=0.9, temperature=0.2)
    colours = torch.randn(64, 3, 1, 1, 1)
    optimizer = torch.optim.SGD([p for p in moco.parameters() if p.requires_grad], lr=0.05)
    history = []
    for step in range(150):
        chosen = colours[torch.randperm(64)[:16]]
        views = tuple(chosen + clips(16, scale=0.3) for _ in range(2))
        output = moco(Batch(views, step))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        history.append(
            {"loss": output.loss.item(), **{k: float(v) for k, v in output.scalars.items()}}
        )
    first, last = history[5:15], history[-10:]

    def mean(rows: list[dict[str, float]], name: str) -> float:
        return sum(row[name] for row in rows) / len(rows)

    assert mean(last, "loss") < mean(first, "loss") - 0.5
    assert mean(last, "feature_std") > 0.6
    assert mean(last, "positive_similarity") > mean(last, "negative_similarity") + 0.5


RANKS = """
import json

import torch
import torch.nn.functional as F
from torch import nn

from vidssl.backbones import Encoder
from vidssl.methods import Batch
from vidssl.methods.moco import Config
from vidssl.nn.distributed import joined, rank

torch.set_num_threads(1)


class MeanColour(Encoder):
    features = 3
    spatial_stride = temporal_stride = 1

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.eye(3))

    def maps(self, clips):
        return torch.einsum("ij,bjthw->bithw", self.mix, clips)


def build():
    torch.manual_seed(0)
    options = {"queue": 10, "hidden": 6, "dim": 4, "momentum": 1.0}
    return Config(**options).build(MeanColour())


torch.manual_seed(1)
one, two = (torch.randn(8, 3, 2, 4, 4) for _ in range(2))
alone = build()
with torch.no_grad():
    keys = [F.normalize(alone.key_projector(alone.key_encoder(c)), dim=1) for c in (two, one)]
alone_loss = alone(Batch((one, two), 3)).loss  # before there is a group
with joined():
    moco = build()
    share = slice(4 * rank(), 4 * rank() + 4)
    loss = moco(Batch((one[share], two[share]), 3)).loss
    print(json.dumps({
        "loss": loss.item(),
        "alone": alone_loss.item(),
        "queue": (moco.queue - alone.queue).abs().max().item(),
        "keys": (moco.queue[:6] - torch.cat(keys)[10:]).abs().max().item(),
        "newest": (moco.queue[8:10] - keys[1][:2]).abs().max().item(),
        "pointer": moco.pointer.item(),
    }))
"""


def test_two_processes_share_keys_and_queue_as_one_would(
    in_two_processes: Callable[..., list[str]],
) -> None:
    # 8 clips, 4 a process: the keys of both clips enter, 16 in all, in the order of the whole
    # batch; the queue has 10 rows, so rows 8 and 9 hold the second view's first two keys and rows
    # 0 to 5 its last six.
    said = [json.loads(out) for out in in_two_processes(RANKS)]
    for seen in said:
        assert seen["pointer"] == 6
        assert seen["queue"] == pytest.approx(0, abs=1e-6)
        assert seen["keys"] == pytest.approx(0, abs=1e-6)
        assert seen["newest"] == pytest.approx(0, abs=1e-6)
    # The loss is a mean over clips: that of all is the mean of both shares.
    assert (said[0]["loss"] + said[1]["loss"]) / 2 == pytest.approx(said[0]["alone"], rel=1e-5)
    assert said[0]["loss"] != pytest.approx(said[1]["loss"], rel=1e-4)
