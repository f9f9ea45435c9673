"""Catch-the-Patch: its codes and terms by hand, its head, and what it learns."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from vidssl.augment.paste import draw_games
from vidssl.errors import RecipeError
from vidssl.methods import Batch
from vidssl.methods.ctp import Config, CtP, centre_error, decode, encode
from vidssl.recipe import Pretrain, bundled, load
from vidssl.section import choose

SLOW = {"name": "slow", "width": 8, "depths": [1, 1, 1, 1], "frames": 4, "form": "detection"}
SMALL = {"hidden": 16}


def built(backbone: dict[str, object] | None = None, **settings: object) -> tuple[Config, CtP]:
    config = Config.model_validate({**SMALL, **settings})
    return config, config.build(choose("vidssl.backbones", backbone or SLOW).build())


def textures(count: int = 4, frames: int = 4, side: int = 32) -> Batch:
    """Clips in which nothing moves."""
    generator = torch.Generator().manual_seed(0)
    stills = torch.randn(count, 3, 1, side, side, generator=generator)
    return Batch((stills.expand(-1, -1, frames, -1, -1),), seeds=tuple(range(count)))


# --- codes


def test_codes_of_a_box_by_hand() -> None:
    # From 20 x 10 pixels at (20, 10) to twice as wide at (28, 6), in pixels of 112.
    boxes = torch.tensor([[[[10.0, 5, 30, 15], [8, 1, 48, 11]]]]) / 112
    expected = [[0, 0, 0, 0], [8 / 0.8, -4 / 0.8, math.log(2) / 0.04, 0]]
    assert torch.allclose(encode(boxes), torch.tensor([[expected]]), atol=1e-4)


def test_decoding_undoes_encoding() -> None:
    boxes = draw_games(range(50), 16, Config().game).boxes
    assert (decode(encode(boxes), boxes[:, :, 0]) - boxes).abs().max() < 1e-4 / 112


def test_the_error_of_a_guess_that_stays_is_one_and_of_the_truth_none() -> None:
    wanted = encode(draw_games(range(8), 6, Config().game).boxes)
    assert centre_error(torch.zeros_like(wanted), wanted).item() == pytest.approx(1.0)
    assert centre_error(wanted, wanted).item() == 0.0
    assert centre_error(wanted / 2, wanted).item() == pytest.approx(0.5)


# --- the method


def test_the_batch_is_prepared_with_patches_and_boxes() -> None:
    batch = textures()
    prepared = Config().prepare(batch)
    assert prepared.targets["boxes"].shape == (4, 3, 4, 4)
    assert prepared.views[0].shape == batch.views[0].shape
    assert not torch.equal(prepared.views[0], batch.views[0])
    again = Config().prepare(batch)
    assert torch.equal(again.views[0], prepared.views[0])
    part = replace(batch, views=(batch.views[0][2:],), seeds=batch.seeds[2:])
    assert torch.equal(Config().prepare(part).views[0], prepared.views[0][2:])


def test_a_guess_that_stays_costs_the_smooth_distance_of_every_code() -> None:
    config, ctp = built()
    torch.nn.init.zeros_(ctp.changes.weight)
    batch = config.prepare(textures())
    codes = encode(batch.targets["boxes"]).tolist()

    def mean(numbers: list[float]) -> float:
        each = [abs(n) - 0.5 if abs(n) >= 1 else n * n / 2 for n in numbers]
        return sum(each) / len(each)

    every = [code for clip in codes for track in clip for code in track]
    expected = mean([n for code in every for n in code[:2]])
    expected += mean([n for code in every for n in code[2:]])
    output = ctp(batch)
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    assert output.scalars["centre_error"].item() == pytest.approx(1.0)


def test_the_first_frame_has_not_moved_and_each_later_one_adds_its_change() -> None:
    _, ctp = built()
    torch.nn.init.zeros_(ctp.changes.weight)
    with torch.no_grad():
        ctp.changes.bias.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
    map_ = torch.randn(2, ctp.encoder.features, 4, 2, 2)
    first = torch.tensor([[[0.0, 0.0, 0.5, 0.5]]]).expand(2, 3, 4)
    found = ctp.follow(map_, first, torch.zeros(2, 3, 4, 32, 32))
    assert found.shape == (2, 3, 4, 4)
    # Shares of the greatest changes: 3 px over 0.8, and 0.025 over 0.04.
    expected = [[3.75 * n, -7.5 * n, 0.3125 * n, 0] for n in (0.0, 1.0, 2.0, 3.0)]
    assert found[1, 2].tolist() == [pytest.approx(row) for row in expected]


def test_a_patch_is_followed_from_its_own_place() -> None:
    # A map that is bright in its left half: boxes on the left and on the right must differ.
    torch.manual_seed(0)
    _, ctp = built()
    torch.nn.init.normal_(ctp.changes.weight)
    map_ = torch.zeros(1, ctp.encoder.features, 4, 4, 4)
    map_[..., :2] = 1.0
    boxes = torch.tensor([[[0.0, 0.0, 0.4, 0.4], [0.0, 0.6, 0.4, 1.0], [0.6, 0.0, 1.0, 0.4]]])
    left, below, right = ctp.follow(map_, boxes, torch.zeros(1, 3, 4, 64, 64))[0]
    assert torch.allclose(left, below, atol=1e-5)
    assert not torch.allclose(left, right, atol=1e-2)


def test_the_order_of_patches_and_of_clips_changes_nothing() -> None:
    config, ctp = built()
    batch = config.prepare(textures())
    torch.nn.init.normal_(ctp.changes.weight)
    loss = ctp(batch).loss.item()
    boxes = batch.targets["boxes"][:, [2, 0, 1]]
    assert ctp(replace(batch, targets={"boxes": boxes})).loss.item() == pytest.approx(loss)
    order = torch.tensor([3, 1, 0, 2])
    mixed = replace(
        batch, views=(batch.views[0][order],), targets={"boxes": batch.targets["boxes"][order]}
    )
    assert ctp(mixed).loss.item() == pytest.approx(loss, rel=1e-5)


def test_every_weight_takes_gradient_and_every_scalar_is_named() -> None:
    config, ctp = built()
    torch.nn.init.normal_(ctp.changes.weight)
    output = ctp(config.prepare(textures(6)))
    output.loss.backward()
    assert all(p.grad is not None for p in ctp.parameters())
    for name in ("near.weight", "whole.weight", "region.weight", "encoder.trunk.stem.conv.weight"):
        grad = ctp.get_parameter(name).grad
        assert grad is not None
        assert grad.abs().sum() > 0, name
    assert set(output.scalars) == {
        "centre",
        "size",
        "centre_error",
        "feature_std",
        "effective_rank",
    }
    unwatched = config.prepare(replace(textures(6), watched=False))
    assert set(ctp(unwatched).scalars) == {"centre", "size"}


def test_the_head_has_the_parameters_of_its_layers() -> None:
    encoder = choose("vidssl.backbones", {"name": "resnet18_3d"}).build()
    ctp = Config().build(encoder)
    total = sum(p.numel() for p in ctp.parameters()) - sum(p.numel() for p in encoder.parameters())
    near, whole = 512 * 512 * 3 + 512, 2 * 512 * 512
    region, changes = 512 * 25 * 512 + 512, 512 * 8 * 4 + 8 * 4
    assert total == near + whole + region + changes


@pytest.mark.parametrize(
    ("backbone", "side"),
    [
        (SLOW, 32),
        ({**SLOW, "name": "r3d", "frames": 5}, 40),  # neither a multiple of a stride
        ({"name": "resnet18_3d", "frames": 10}, 32),
        ({**SLOW, "name": "slowfast", "frames": 8, "alpha": 4, "beta_inverse": 2}, 32),
    ],
)
def test_any_backbone_with_a_map_and_any_number_of_frames_fits(
    backbone: dict[str, object], side: int
) -> None:
    config, ctp = built(backbone)
    frames = choose("vidssl.backbones", backbone).frames
    output = ctp(config.prepare(textures(2, frames, side)))
    output.loss.backward()
    assert math.isfinite(output.loss.item())


def test_a_map_of_one_cell_is_refused_with_the_way_out() -> None:
    clips = torch.Size([2, 3, 8, 32, 32])
    with pytest.raises(RecipeError, match=r"map of 32 x 32 pixels is 1 x 1 cells.*crop_px"):
        Config().require_map(clips, torch.Size([2, 8, 4, 1, 1]))
    Config().require_map(clips, torch.Size([2, 8, 1, 2, 2]))


def test_a_clip_of_one_frame_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"backbone\.frames of at least 2, found 1"):
        Config().require_map(torch.Size([2, 3, 1, 32, 32]), torch.Size([2, 8, 1, 2, 2]))


def test_a_batch_that_was_not_prepared_is_refused() -> None:
    with pytest.raises(ValueError, match="prepare makes them"):
        built()[1](textures())


def test_a_batch_of_one_trains() -> None:
    config, ctp = built()
    assert math.isfinite(ctp(config.prepare(textures(1))).loss.item())


def test_a_pixel_that_is_no_number_shows_in_the_loss() -> None:
    config, ctp = built()
    batch = textures()
    view = batch.views[0].clone()
    view[0, 0, 0, 0, 0] = math.nan
    torch.nn.init.normal_(ctp.changes.weight)
    assert math.isnan(ctp(config.prepare(replace(batch, views=(view,)))).loss.item())


def test_two_processes_train_as_one(two_processes_equal_one: Callable[..., None]) -> None:
    two_processes_equal_one(
        {"name": "ctp", "hidden": 8}, {**SLOW, "norm": "sync"}, views=1, strides=(2,)
    )


def test_training_on_a_few_games_learns_them() -> None:
    torch.manual_seed(0)
    config, ctp = built()
    batch = config.prepare(textures(8))
    optimizer = torch.optim.AdamW(ctp.parameters(), lr=3e-3)
    losses, errors = [], []
    for _ in range(40):
        optimizer.zero_grad()
        output = ctp(batch)
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
        errors.append(output.scalars["centre_error"].item())
    assert losses[-1] < 0.6 * losses[0]
    assert errors[-1] < 0.6


def test_a_resumed_method_goes_on_as_if_it_had_not_stopped() -> None:
    torch.manual_seed(0)
    (config, ctp), (_, again) = built(), built()
    batch = config.prepare(textures())
    ctp(batch)  # moves the statistics of the backbone
    again.load_state_dict(ctp.state_dict())
    assert again.eval()(batch).loss.item() == ctp.eval()(batch).loss.item()


def test_the_small_recipe_is_ctp_without_blur() -> None:
    plan = load(Pretrain, bundled(Pretrain)["ctp_small"])
    assert isinstance(plan.method, Config)
    assert (plan.augment.blur, plan.augment.solarise, plan.augment.difference) == (0, 0, 0)
    with pytest.raises(RecipeError, match=r"starts.*found nested"):
        load(Pretrain, bundled(Pretrain)["ctp_small"], ["sampling.starts=nested"])
