"""ConST-CL against golden values, a slow loss, and what must and must not matter."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidssl.backbones import Encoder
from vidssl.errors import RecipeError
from vidssl.methods import Batch
from vidssl.methods.const_cl import (
    Config,
    ConSTCL,
    grid,
    local_loss,
    match,
    random_boxes,
    regions,
)
from vidssl.nn.reconstructor import Reconstructor
from vidssl.section import choose

R3D = {"name": "r3d", "width": 8, "depths": [1, 1, 1, 1], "frames": 8, "local_branch": True}
SYNCED = {**R3D, "frames": 4, "norm": "sync", "form": "detection"}
TINY = {"name": "const_cl", "hidden": 16, "dim": 8}


def encoder(**changes: object) -> Encoder:
    built: Encoder = choose("vidssl.backbones", {**R3D, **changes}).build()
    return built


def config(**changes: object) -> Config:
    return Config.model_validate({**TINY, **changes})


def method(**changes: object) -> ConSTCL:
    torch.manual_seed(0)
    return config(**changes).build(encoder())


def batch(clips: int = 4, frames: int = 8, side: int = 64, **about: object) -> Batch:
    torch.manual_seed(1)
    views = tuple(torch.randn(clips, 3, frames, side, side) for _ in range(2))
    return Batch(views, seeds=tuple(range(clips)), **about)  # type: ignore[arg-type]


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


# --- the local loss

UP, HIGH, DOWN, LOW = [1.0, 2, 3, 4], [5.0, 6, 7, 8], [4.0, 3, 2, 1], [8.0, 7, 6, 5]
NONE = [-1.0] * 4
ONE = torch.tensor([[UP, HIGH, NONE, NONE], [NONE, NONE, DOWN, LOW], [UP, HIGH, DOWN, LOW]])
TWO = torch.tensor(
    [
        [[1.5, 2.5, 3.5, 4.5], [5.5, 6.5, 7.5, 8.5], NONE, NONE],
        [NONE, NONE, [5.5, 6.5, 7.5, 8.5], [8.5, 7.5, 6.5, 5.5]],
        [[1.5, 2.5, 3.5, 4.5], [4.5, 3.5, 2.5, 1.5], [5.5, 6.5, 7.5, 8.5], [8.5, 7.5, 6.5, 5.5]],
    ]
)
VALID = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]], dtype=torch.bool)


@pytest.mark.parametrize(("temperature", "expected"), [(0.1, 1.669813), (0.2, 1.666844)])
def test_the_local_loss_has_the_golden_value(temperature: float, expected: float) -> None:
    loss = local_loss((ONE, TWO), (TWO, ONE), (VALID, VALID), temperature)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("videos", "count"), [(2, 1), (8, 8), (64, 8)])
def test_the_local_loss_of_equal_features_is_that_of_a_blind_guess(videos: int, count: int) -> None:
    same, valid = torch.ones(videos, count, 4), torch.ones(videos, count, dtype=torch.bool)
    loss = local_loss((same, same), (same, same), (valid, valid), 0.2).item()
    assert loss == pytest.approx(math.log(1 + (videos - 1) * count), rel=1e-5)
    if (videos, count) == (64, 8):
        assert loss == pytest.approx(6.2246, abs=1e-4)


def slow_match(
    query: Tensor, own: Tensor, other: Tensor, valid: Tensor, temperature: float
) -> float:
    """One region after the other, with lists."""
    costs = []
    for video, query_n in enumerate(query):
        for n, asked in enumerate(query_n):
            similar = [float(own[video, n] @ candidate) for candidate in other[video]]
            positive = float(asked @ other[video, similar.index(max(similar))])
            others = [o for away, rows in enumerate(other) if away != video for o in rows]
            total = math.exp(positive / temperature)
            total += sum(math.exp(float(asked @ o) / temperature) for o in others)
            if valid[video, n]:
                costs.append(math.log(total) - positive / temperature)
    return sum(costs) / len(costs)


def test_a_direction_of_the_local_loss_equals_a_slow_search() -> None:
    torch.manual_seed(0)
    query, own, other = unit(3, 4, 6), unit(3, 4, 6), unit(3, 4, 6)
    valid = torch.rand(3, 4) > 0.4
    expected = slow_match(query, own, other, valid, 0.3)
    assert match(query, own, other, valid, 0.3).item() == pytest.approx(expected, rel=1e-6)


def test_the_positive_is_chosen_by_the_regions_and_not_by_what_is_reconstructed() -> None:
    # Of two orthogonal regions, the first is the other view's first; a reconstruction that claims
    # to be the second is scored against the first: positive 0, negatives 0, ln(1 + 2).
    own = torch.eye(4)[None, :2].repeat(2, 1, 1)
    own[1] = torch.eye(4)[2:]
    swapped = own.flip(1)
    valid = torch.tensor([[True, False], [False, False]])
    assert match(swapped, own, own, valid, 0.1).item() == pytest.approx(math.log(3), rel=1e-6)


def test_regions_of_the_same_video_are_no_negatives() -> None:
    torch.manual_seed(0)
    query, own, other = unit(2, 3, 6), unit(2, 3, 6), unit(2, 3, 6)
    own[0] = other[0] = query[0]  # each its own nearest
    valid = torch.tensor([[True, False, False], [False, False, False]])
    before = match(query, own, other, valid, 0.2).item()
    other[0, 1] = -other[0, 1]  # of the same video, not the positive
    assert match(query, own, other, valid, 0.2).item() == pytest.approx(before, rel=1e-9)
    other[1, 1] = query[0, 0]  # of the other video
    assert match(query, own, other, valid, 0.2).item() > before + 0.1


def test_a_region_that_is_not_valid_has_no_loss_of_its_own_but_is_a_negative() -> None:
    torch.manual_seed(0)
    query, own, other = unit(2, 3, 6), unit(2, 3, 6), unit(2, 3, 6)
    valid = torch.ones(2, 3, dtype=torch.bool)
    valid[1, 2] = False
    before = match(query, own, other, valid, 0.2).item()
    changed = query.clone()
    changed[1, 2] = unit(6)
    assert match(changed, own, other, valid, 0.2).item() == pytest.approx(before, rel=1e-12)
    own[1, :2] = other[1, :2]  # each its own nearest: the third is nobody's positive
    before = match(query, own, other, valid, 0.2).item()
    away = other.clone()
    away[1, 2] = query[0, 0] - 2 * (query[0, 0] @ own[1, 0]).clamp(min=0) * own[1, 0]
    assert (own[1] @ away[1].T).argmax(1)[:2].tolist() == [0, 1]
    assert match(query, own, away, valid, 0.2).item() > before + 0.05


def test_targets_are_trained_too() -> None:
    torch.manual_seed(0)
    one, two, there, back = (unit(2, 3, 6).requires_grad_() for _ in range(4))
    valid = torch.ones(2, 3, dtype=torch.bool)
    loss = local_loss((one, two), (there, back), (valid, valid), 0.2)
    for grad in torch.autograd.grad(loss, (one, two, there, back)):
        assert grad.abs().max() > 1e-4


def test_the_order_of_boxes_does_not_matter() -> None:
    torch.manual_seed(0)
    maps = [F.normalize(torch.randn(3, 32, 8, 4, 4), dim=1) for _ in range(2)]
    boxes = torch.from_numpy(random_boxes(np.random.default_rng(0), (6, 5))).float()
    one, two = boxes.chunk(2)
    valid = torch.rand(3, 5) > 0.3
    reconstruct = Reconstructor(32)

    def loss(order: Tensor) -> float:
        of_one, of_two = regions(maps[0], one[:, order]), regions(maps[1], two)
        made = (reconstruct(of_one, maps[1]), reconstruct(of_two, maps[0]))
        return local_loss((of_one, of_two), made, (valid[:, order], valid), 0.2).item()

    assert loss(torch.tensor([4, 2, 0, 1, 3])) == pytest.approx(loss(torch.arange(5)), rel=1e-6)


def test_without_a_valid_region_the_local_loss_is_0_and_its_gradients_are_finite() -> None:
    net = method()
    blind = config().prepare(batch())
    blind.targets["boxes_valid"].fill_(False)
    blind.targets["boxes"].zero_()  # what a table leaves where it has nobody
    output = net(blind)
    assert output.scalars["local_loss"].item() == 0.0
    output.loss.backward()
    assert output.loss.item() == output.scalars["global_loss"].item()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


# --- regions


def slow_region(key: Tensor, box: Tensor) -> Tensor:
    """Sixteen bilinear samples one by one; cell i lies at coordinate i."""
    _, height, width = key.shape
    total = torch.zeros(len(key), dtype=key.dtype)
    for row in range(4):
        for column in range(4):
            x = float(box[0] + (box[2] - box[0]) * (column + 0.5) / 4) * width
            y = float(box[1] + (box[3] - box[1]) * (row + 0.5) / 4) * height
            x, y = min(x, width - 1), min(y, height - 1)
            left, top = min(int(x), width - 2), min(int(y), height - 2)
            a, b = x - left, y - top
            total += (1 - a) * (1 - b) * key[:, top, left] + a * (1 - b) * key[:, top, left + 1]
            total += (1 - a) * b * key[:, top + 1, left] + a * b * key[:, top + 1, left + 1]
    return total / 16


@pytest.mark.parametrize("size", [(7, 7), (3, 5)])
def test_a_region_is_the_mean_of_sixteen_samples_of_the_key_step(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    map_ = torch.randn(2, 6, 8, *size, dtype=torch.float64)
    boxes = torch.from_numpy(random_boxes(np.random.default_rng(0), (2, 20)))
    found = regions(map_, boxes)
    for clip in range(2):
        for n, box in enumerate(boxes[clip]):
            assert torch.allclose(found[clip, n], slow_region(map_[clip, :, 4], box), atol=1e-9)


def test_a_box_is_x_first() -> None:
    map_ = torch.zeros(1, 1, 2, 8, 8)
    map_[0, 0, 1, :, 4:] = 1.0  # the right half of the key step
    right, below = [0.6, 0.1, 0.8, 0.3], [0.1, 0.6, 0.3, 0.8]
    assert regions(map_, torch.tensor([[right, below]]))[0, :, 0].tolist() == [1.0, 0.0]


# --- boxes


def test_random_boxes_have_the_intended_distribution() -> None:
    boxes = random_boxes(np.random.default_rng(0), (500, 40))
    left, top, right, bottom = np.moveaxis(boxes, 2, 0)
    assert boxes.min() >= 0
    assert boxes.max() == 0.999
    assert (right >= left).all()
    assert (bottom >= top).all()
    whole = (right < 0.999) & (bottom < 0.999) & (left < 0.25) & (top < 0.25)
    width, height = (right - left)[left < 0.499], (bottom - top)[whole]
    assert width.min() >= 0.1
    assert width.max() <= 0.5
    assert width.mean() == pytest.approx(0.3, abs=0.005)
    ratio = height / (right - left)[whole]
    assert ratio.min() >= 0.5
    assert ratio.max() <= 2.0
    assert left.mean() == pytest.approx(0.5, abs=0.01)
    assert top.mean() == pytest.approx(0.5, abs=0.01)
    assert abs(np.corrcoef(left.ravel(), top.ravel())[0, 1]) < 0.02


def test_correlated_boxes_lie_on_the_diagonal_and_grow_along_it() -> None:
    boxes = random_boxes(np.random.default_rng(0), (3, 50), correlated=True)
    left, top, right, bottom = np.moveaxis(boxes, 2, 0)
    assert (left == top).all()
    assert np.allclose(right, np.minimum(left + 0.1 + 0.4 * left, 0.999))
    height = (0.1 + 0.4 * left) * (0.5 + 1.5 * left)
    assert np.allclose(bottom, np.minimum(top + height, 0.999))


def test_eight_grid_boxes_are_two_rows_of_four() -> None:
    boxes = grid(8)
    assert boxes[0].tolist() == [0, 0, 0.25, 0.5]
    assert boxes[3].tolist() == [0.75, 0, 1, 0.5]
    assert boxes[6].tolist() == [0.5, 0.5, 0.75, 1]
    for count in (1, 7, 9, 12):
        cells = grid(count)
        areas = (cells[:, 2] - cells[:, 0]) * (cells[:, 3] - cells[:, 1])
        assert len(cells) == count
        assert areas.sum() == pytest.approx(1.0)


def test_boxes_depend_on_the_clip_s_seed_alone_and_differ_between_views() -> None:
    whole = config().prepare(batch(4))
    boxes, valid = whole.targets["boxes"], whole.targets["boxes_valid"]
    assert boxes.shape == (4, 2, 8, 4)
    assert boxes.dtype == torch.float32
    assert valid.shape == (4, 2, 8)
    assert valid.dtype == torch.bool
    assert valid.all()
    assert not torch.equal(boxes[:, 0], boxes[:, 1])
    some = Batch(tuple(view[2:3] for view in batch(4).views), seeds=(2,), step=9, seed=5)
    assert torch.equal(config().prepare(some).targets["boxes"], boxes[2:3])
    assert torch.equal(config().prepare(whole).targets["boxes"], boxes)


def test_grid_boxes_are_the_same_in_all_views_and_a_table_s_are_left_alone() -> None:
    boxes = config(boxes="grid", regions=4).prepare(batch(3)).targets["boxes"]
    assert (boxes == torch.from_numpy(grid(4)).float()).all()
    assert boxes.shape == (3, 2, 4, 4)
    given = batch(3, targets={"boxes": boxes})
    assert config(boxes="table").prepare(given) is given


# --- the method


def test_the_parts_have_the_published_sizes() -> None:
    def count(part: torch.nn.Module) -> int:
        return sum(weight.numel() for weight in part.parameters())

    with torch.device("meta"):
        whole = Config().build(
            choose("vidssl.backbones", {"name": "r3d", "local_branch": True}).build()
        )
    assert count(whole.projector) == 12_857_472
    assert count(whole.reconstructor) == 6_928_356
    assert count(whole.encoder) == 31_672_128 + 20_207_616
    assert count(whole) == 71_665_572  # "about 71.67 M"


def test_the_first_losses_are_near_those_of_a_blind_guess() -> None:
    torch.manual_seed(0)
    output = method()(config().prepare(batch(8)))
    scalars = output.scalars
    assert scalars["local_loss"].item() == pytest.approx(math.log(1 + 7 * 8), abs=0.5)
    assert output.loss.item() == pytest.approx(
        scalars["global_loss"].item() + 0.001 * scalars["local_loss"].item(), rel=1e-6
    )


def test_both_ends_the_trunk_and_the_reconstructor_are_trained_each_by_its_loss() -> None:
    net = method(local_weight=0.0)
    net(config().prepare(batch())).loss.backward()
    trained = {n: w.grad for n, w in net.named_parameters() if w.grad is not None}
    assert all(trained[name].any() for name in trained if name.startswith("projector"))
    for name, grad in trained.items():
        if name.startswith(("encoder.local", "reconstructor")):
            assert not grad.any(), name
    net = method(local_weight=1.0)
    for part in net.encoder.modules():
        if isinstance(part, torch.nn.BatchNorm3d):  # scales of 0 hide what lies before them
            torch.nn.init.ones_(part.weight)
    output = net(config().prepare(batch()))
    output.loss.backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.any() or name.endswith("key.bias"), name


def test_what_is_logged_has_the_names_of_all_methods() -> None:
    health = {"positive_similarity", "negative_similarity", "top1", "feature_std", "effective_rank"}
    net = method()
    watched = net(config().prepare(batch(8))).scalars
    assert watched.keys() == {"global_loss", "local_loss"} | health
    unwatched = net(config().prepare(batch(8, watched=False))).scalars
    assert unwatched.keys() == {"global_loss", "local_loss"}


def test_a_few_steps_lower_both_losses() -> None:
    net = method(local_weight=1.0)
    one = config().prepare(batch(4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(12):
        scalars = net(one)
        optimizer.zero_grad()
        scalars.loss.backward()
        optimizer.step()
        losses.append({name: value.item() for name, value in scalars.scalars.items()})
    assert losses[-1]["global_loss"] < losses[0]["global_loss"] - 0.3
    assert losses[-1]["local_loss"] < losses[0]["local_loss"] - 0.3


def test_a_saved_method_goes_on_as_if_it_had_not_stopped() -> None:
    one = config().prepare(batch(3))
    net = method()
    net(one)  # moves the norms
    again = config().build(encoder())
    again.load_state_dict(net.state_dict())
    assert again(one).loss.item() == net(one).loss.item()


def test_a_clip_that_is_no_number_gives_a_loss_that_is_none() -> None:
    bad = config().prepare(batch(3))
    bad.views[0][0, 0, 0, 0, 0] = float("nan")
    assert method()(bad).loss.isnan()


def test_two_processes_have_the_loss_and_the_gradients_of_one(
    two_processes_equal_one: Callable[..., None],
) -> None:
    two_processes_equal_one({**TINY, "local_weight": 1.0}, SYNCED, clips=4, double=True)


def test_two_processes_share_the_mean_over_valid_regions(
    two_processes_equal_one: Callable[..., None],
) -> None:
    # The first process has three valid regions of eight, the second seven.
    valid = [[[1, 0], [1, 0]], [[1, 0], [0, 0]], [[1, 1], [1, 1]], [[0, 1], [1, 1]]]
    boxes = random_boxes(np.random.default_rng(0), (8, 2)).reshape(4, 2, 2, 4).tolist()
    targets = {"boxes": boxes, "boxes_valid": [[[bool(n) for n in v] for v in c] for c in valid]}
    table = {**TINY, "local_weight": 1.0, "boxes": "table", "regions": 2}
    two_processes_equal_one(table, SYNCED, clips=4, targets=targets, double=True)


# --- what cannot be trained


@pytest.mark.parametrize(
    "backbone",
    [
        {"name": "r3d", "width": 8, "depths": [1, 1, 1, 1]},
        {"name": "slow", "width": 8, "depths": [1, 1, 1, 1]},
        {"name": "slowfast", "width": 8, "depths": [1, 1, 1, 1]},
    ],
)
def test_an_encoder_with_one_end_is_refused(backbone: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=r"backbone: \{name: r3d, local_branch: true\}"):
        config().build(choose("vidssl.backbones", backbone).build())


@pytest.mark.parametrize(
    "changes",
    [{"form": "detection"}, {"norm": "group"}, {"block": "basic"}, {"maps_from": "local"}],
)
def test_every_kind_of_two_ended_encoder_is_trained(changes: dict[str, object]) -> None:
    net = config().build(encoder(**changes))
    output = net(config().prepare(batch(2)))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(weight.grad is not None for weight in net.parameters())


def require(**size: int) -> None:
    """Ask the method whether it can use clips of some frames or side."""
    clips = batch(1, **size).views[0]
    config().require_map(clips.shape, method().encoder.eval().maps(clips).shape)


def test_a_clip_of_one_step_is_refused_and_one_of_two_is_not() -> None:
    with pytest.raises(RecipeError, match=r"2 steps or more: backbone.frames 2 gives 1"):
        require(frames=2)
    require(frames=3)
    assert method()(config().prepare(batch(2, frames=3))).loss.isfinite()


def test_a_map_of_one_cell_is_refused_and_one_of_four_is_not() -> None:
    net = method()
    sides = [n * net.encoder.spatial_stride for n in (1, 2)]
    with pytest.raises(RecipeError, match=rf"2 x 2 cells or more.*crop_px {sides[0]} gives 1 x 1"):
        require(side=sides[0])
    require(side=sides[1])
    assert net(config().prepare(batch(2, side=sides[1]))).loss.isfinite()


def test_one_clip_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"optim.batch must be 2 or more, got 1"):
        config().require_batch(1)
    config().require_batch(2)


def test_correlated_boxes_are_random_ones() -> None:
    with pytest.raises(ValueError, match="correlated is for boxes: random, found boxes: grid"):
        config(boxes="grid", correlated=True)
