"""The game of pasted patches: its rules, and its pixels against the formula."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vidssl.augment.paste import (
    INNER,
    SIDE_PX,
    Game,
    GameConfig,
    alphas,
    between_keys,
    cut,
    draw_games,
    key_frames,
    paste,
)

CONFIG = GameConfig()
GAMES = draw_games(range(300), 16, CONFIG)


def clips(count: int, frames: int = 4, side: int = 28) -> Tensor:
    return torch.rand(count, 3, frames, side, side, generator=torch.Generator().manual_seed(0))


def one_patch(boxes: list[list[float]], source: int, outline: int = 0, soft: bool = False) -> Game:
    """A game of one clip with one opaque patch."""
    return Game(
        torch.tensor([[boxes]]),
        torch.tensor([[source]]),
        torch.ones(1, 1, len(boxes)),
        torch.tensor([[outline]]),
        torch.tensor([[soft]]),
    )


# --- the draw


def test_boxes_are_whole_pixels_of_112_inside_the_picture() -> None:
    boxes_px = GAMES.boxes * SIDE_PX
    assert (boxes_px - boxes_px.round()).abs().max() < 1e-4
    assert GAMES.boxes.min() >= 0
    assert GAMES.boxes.max() <= 1
    assert (boxes_px[..., 2:] - boxes_px[..., :2]).min() >= 1 - 1e-4


def test_the_first_frame_and_the_source_always_show_a_patch_and_the_others_mostly() -> None:
    shown = GAMES.opacity > 0
    assert shown[:, :, 0].all()
    assert shown.gather(2, GAMES.source[..., None]).all()
    # Of 16 frames the first is never dropped, and the source, in 15/16 another one, neither.
    kept = (1 + 15 / 16) / 16
    expected = kept + (1 - kept) * (1 - CONFIG.hidden)
    assert shown.float().mean().item() == pytest.approx(expected, abs=0.01)
    assert GAMES.opacity[shown].min() >= 0.8
    assert GAMES.opacity.max() <= 1


def test_the_largest_patch_is_pasted_first() -> None:
    first = GAMES.boxes[:, :, 0]
    areas = (first[..., 2] - first[..., 0]) * (first[..., 3] - first[..., 1])
    assert (areas[:, 1:] <= areas[:, :-1] + 1e-6).all()  # float32, of areas that may be equal


def test_outlines_edges_and_sources_are_drawn_as_often_as_they_should() -> None:
    shares = GAMES.outline.flatten().bincount(minlength=3) / GAMES.outline.numel()
    assert shares.tolist() == pytest.approx([0.5, 0.35, 0.15], abs=0.05)
    assert GAMES.soft.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert set(GAMES.source.flatten().tolist()) == set(range(16))


def test_the_game_of_a_clip_follows_from_its_seed_alone() -> None:
    again = draw_games([7, 3], 16, CONFIG)
    for name in ("boxes", "source", "opacity", "outline", "soft"):
        both = getattr(GAMES, name)[[7, 3]]
        assert torch.equal(getattr(again, name), both), name
    assert not torch.equal(GAMES.boxes[0], GAMES.boxes[1])
    given = clips(3)
    game = draw_games([4, 5, 6], 4, CONFIG)
    alone = paste(given[1:2], draw_games([5], 4, CONFIG))
    assert torch.equal(paste(given, game)[1:2], alone)


def tracks(count: int = 400, frames: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Key frames of patches that begin in the middle, 30 pixels wide and high."""
    u = np.random.default_rng(0).random((count, 3, 15))
    first = np.broadcast_to([56.0, 56.0, math.log(30), math.log(30)], (count, 3, 4))
    return key_frames(u, first, frames, CONFIG)


def test_between_key_frames_nothing_goes_faster_than_its_limit() -> None:
    at, keys = tracks()
    gaps, moved = np.diff(at)[..., None], np.abs(np.diff(keys, axis=2))
    assert (moved[..., :2] <= 3.0 * gaps + 1e-9).all()
    assert (moved[..., 2:] <= 0.025 * gaps + 1e-9).all()
    assert moved[..., :2].max() > 2.5 * 15  # from the first frame to the last at nearly full speed
    assert keys[..., :2].min() >= 0
    assert keys[..., :2].max() <= SIDE_PX


def test_key_frames_are_the_first_the_last_and_none_to_two_between() -> None:
    at, _ = tracks()
    assert (at[..., 0] == 0).all()
    assert (at[..., 3] == 15).all()
    assert (np.diff(at) >= 0).all()
    inner = ((at[..., 1:3] < 15).sum(axis=-1)).reshape(-1)
    shares = np.bincount(inner, minlength=3) / inner.size
    assert shares.tolist() == pytest.approx(list(INNER), abs=0.05)
    # One in the middle, a third of half of 15 frames either way; two at 5 and 10, 5/3 either way.
    lone = at[..., 1].reshape(-1)[inner == 1]
    assert (np.abs(lone - 7.5) <= 2.5).all()
    two = at[..., 1:3].reshape(-1, 2)[inner == 2]
    assert (np.abs(two - [5, 10]) <= 5 / 3).all()


def test_patches_go_evenly_faster_or_slower_by_hand() -> None:
    at = np.array([[[0.0, 4.0, 4.0, 4.0]]])  # no key frame between
    keys = np.array([[[[0.0], [8.0], [8.0], [8.0]]]])
    ways = [
        between_keys(at, keys, np.full((1, 1, 3), pace), 5)[0, 0, :, 0].tolist()
        for pace in range(3)
    ]
    assert ways == [[0, 2, 4, 6, 8], [0, 0.5, 2, 4.5, 8], [0, 3.5, 6, 7.5, 8]]
    assert between_keys(at, keys, None, 5)[0, 0, :, 0].tolist() == ways[0]
    at = np.array([[[0.0, 2.0, 4.0, 4.0]]])
    keys = np.array([[[[0.0], [4.0], [0.0], [0.0]]]])
    assert between_keys(at, keys, None, 5)[0, 0, :, 0].tolist() == [0, 2, 4, 2, 0]


def test_a_single_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 frames for something to move, got 1"):
        draw_games([0], 1, CONFIG)


# --- pixels


def test_a_patch_that_moves_by_whole_pixels_is_copied_exactly() -> None:
    given = clips(1, frames=2)
    # 7 x 7 pixels from (7, 0) of the first frame to (14, 21) of the second.
    moves = [[7 / 28, 0.0, 14 / 28, 7 / 28], [14 / 28, 21 / 28, 21 / 28, 28 / 28]]
    pasted = paste(given, one_patch(moves, source=0))
    expected = given.clone()
    expected[0, :, 1, 21:28, 14:21] = given[0, :, 0, 0:7, 7:14]
    assert torch.allclose(pasted, expected, atol=1e-5)
    assert torch.equal(given, clips(1, frames=2))


def test_a_patch_twice_as_large_is_resized_as_a_picture_of_its_own() -> None:
    given = clips(1, frames=2)
    grows = [[0.25, 0.25, 0.5, 0.5], [0.25, 0.25, 0.75, 0.75]]  # 7 to 14 pixels
    pasted = paste(given, one_patch(grows, source=0))
    expected = torch.nn.functional.interpolate(
        given[:, :, 0, 7:14, 7:14], size=14, mode="bilinear", align_corners=False
    )
    assert torch.allclose(pasted[:, :, 1, 7:21, 7:21], expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_pasted_pixels_mix_clip_and_patch_by_their_opacity(seed: int) -> None:
    given, game = clips(1), draw_games([seed], 4, CONFIG)
    whole = (0, 0, 28, 28)
    expected = given
    for patch in range(3):
        alpha = alphas(game, patch, (28, 28), whole)[:, None]
        expected = (1 - alpha) * expected + alpha * cut(given, game, patch, whole)
    assert torch.allclose(paste(given, game), expected, atol=1e-5)


def test_outside_of_the_boxes_nothing_changes_and_inside_something_does() -> None:
    given = clips(8)
    game = draw_games(range(8), 4, CONFIG)
    changed = (paste(given, game) != given).any(dim=1)
    centres = (torch.arange(28) + 0.5) / 28
    x1, y1, x2, y2 = (side[..., None] for side in game.boxes.unbind(-1))
    columns, rows = (centres >= x1) & (centres <= x2), (centres >= y1) & (centres <= y2)
    inside = (columns[..., None, :] & rows[..., None]).any(dim=1)
    assert not (changed & ~inside).any()
    assert changed.flatten(1).any(dim=1).all()


def test_outlines_by_hand() -> None:
    # A patch of the whole picture, 8 x 8 pixels, whose centres lie at 1/8, 3/8, 5/8, 7/8 outwards.
    whole = [[0.0, 0.0, 1.0, 1.0]] * 2

    def covered(outline: int) -> list[int]:
        alpha = alphas(one_patch(whole, 0, outline), 0, (8, 8), (0, 0, 8, 8))
        return alpha[0, 0].sum(dim=1).int().tolist()

    assert covered(0) == [8] * 8
    # (7/8)^2 + x^2 <= 1 for x up to 0.48: 1/8 and 3/8; (5/8)^2: up to 0.78; (3/8)^2: up to 0.93.
    assert covered(1) == [4, 6, 8, 8, 8, 8, 6, 4]
    # 7/8 + x <= 1 for 1/8; 5/8: 1/8 and 3/8; and so on.
    assert covered(2) == [2, 4, 6, 8, 8, 6, 4, 2]
    soft = alphas(one_patch(whole, 0, soft=True), 0, (8, 8), (0, 0, 8, 8))[0, 0, 3]
    # The outer quarter falls from 1 to 0: 7/8 lies in its middle.
    assert soft.tolist() == [0.5, 1, 1, 1, 1, 1, 1, 0.5]


@pytest.mark.gpu
def test_a_gpu_pastes_as_a_cpu_does() -> None:
    given, game = clips(6), draw_games(range(6), 4, CONFIG)
    assert torch.allclose(paste(given.cuda(), game).cpu(), paste(given, game), atol=1e-4)
