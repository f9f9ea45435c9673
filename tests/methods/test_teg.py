"""TeG: the correspondence in time by hand, the loss against slow sums, and what it must not see."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidssl.backbones import Encoder
from vidssl.errors import RecipeError
from vidssl.methods import Batch
from vidssl.methods.teg import Config, TeG, aligned_nce, interpolation, unit_steps
from vidssl.nn.contrast import nt_xent
from vidssl.section import choose

Build = Callable[[], Encoder]
Steps = tuple[Tensor, Tensor]
LONG_S, SHORT_S = 8 / 30, 4 / 30  # of a step, for strides of 4 and 2 and a temporal stride of 2


def times(start_s: list[float], step_s: float, steps: int = 8) -> Tensor:
    starts = torch.tensor(start_s, dtype=torch.float64)
    return starts[:, None] + torch.arange(steps, dtype=torch.float64) * step_s


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def pair(clips: int = 3, dim: int = 5) -> tuple[Steps, Steps, Tensor]:
    """A short clip's steps, a long one's around it, and a step of the long one."""
    starts = [0.3 * clip for clip in range(clips)]
    short = (unit(clips, 8, dim), times([start + 0.21 for start in starts], SHORT_S))
    long = (unit(clips, 8, dim), times(starts, LONG_S))
    return short, long, torch.full((clips,), LONG_S, dtype=torch.float64)


def method(encoder: Encoder, **settings: object) -> TeG:
    options = {"hidden": 6, "dim": 4, **settings}
    return Config.model_validate(options).build(encoder)


def batch(clips: int = 4, frames: int = 8) -> Batch:
    long, short = times([0.0] * clips, 4 / 30, frames), times([0.3] * clips, 2 / 30, frames)
    views = (torch.randn(clips, 3, frames, 4, 4), torch.randn(clips, 3, frames, 4, 4))
    return Batch(views, times_s=(long, short))


def slow_nce(asking: Steps, asked: Steps, near_s: float, same_video: bool, tau: float) -> float:
    """The formula, one step after the other, in Python's numbers."""
    (q, at), (k, when) = asking, asked
    losses = []
    for b in range(len(q)):
        for j in range(q.shape[1]):
            t = float(at[b, j])
            around = [
                i for i in range(k.shape[1] - 1) if float(when[b, i]) <= t <= float(when[b, i + 1])
            ]
            if not around:
                continue
            i = around[0]
            share = (t - float(when[b, i])) / float(when[b, i + 1] - when[b, i])
            mixed = (1 - share) * k[b, i] + share * k[b, i + 1]
            own = math.exp(float(q[b, j] @ (mixed / mixed.norm())) / tau)
            total = own
            for c in range(len(k)):
                for m in range(k.shape[1]):
                    far = abs(float(when[b, m]) - t) > near_s
                    if c != b or (same_video and far):
                        total += math.exp(float(q[b, j] @ k[c, m]) / tau)
            losses.append(-math.log(own / total))
    return sum(losses) / len(losses)


# --- correspondence


def test_interpolated_times_are_the_times_asked_for() -> None:
    # A clip whose features are its own times: 5.6 of the specification.
    short, long, _ = pair()
    assert torch.allclose(
        (interpolation(short[1], long[1]) @ long[1][:, :, None])[..., 0], short[1]
    )


def test_a_time_between_two_moments_takes_from_both_by_hand() -> None:
    at = torch.tensor([[1.0, 1.25, 3.0, -0.1, 3.1]], dtype=torch.float64)
    weights = interpolation(at, times([0.0], 1.0, 4))
    expected = [[0, 1, 0, 0], [0, 0.75, 0.25, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert torch.allclose(weights[0], torch.tensor(expected, dtype=torch.float64))


def test_moments_that_repeat_are_read_once_and_without_a_nan() -> None:
    # A video of 2 s that ends before the clip does: its last frame repeats.
    when = torch.tensor([[0.0, 1.0, 2.0, 2.0, 2.0]], dtype=torch.float64)
    weights = interpolation(torch.tensor([[0.5, 2.0]], dtype=torch.float64), when)
    assert weights.tolist() == [[[0.5, 0.5, 0, 0, 0], [0, 0, 1, 0, 0]]]
    still = torch.zeros(1, 5, dtype=torch.float64)
    assert interpolation(still[:, :1], still).tolist() == [[[1, 0, 0, 0, 0]]]


def test_a_clip_that_begins_anew_is_not_read_across_the_seam() -> None:
    when = torch.tensor([[1.0, 2.0, 0.0, 0.5]], dtype=torch.float64)
    weights = interpolation(torch.tensor([[1.5, 0.25, 0.75]], dtype=torch.float64), when)
    assert weights.tolist() == [[[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0, 0]]]


def test_steps_stand_where_the_encoders_stride_puts_them(mean_colour: Build) -> None:
    # Every second of 16 frames, 4 raw frames apart: 0, 8/30, ... as in the specification.
    class Halved(type(mean_colour())):  # type: ignore[misc]
        temporal_stride = 2

        def maps(self, clips: Tensor) -> Tensor:
            map_: Tensor = super().maps(clips)[:, :, ::2]
            return map_

    torch.manual_seed(0)
    teg = method(Halved(), fine_weight=1.0, dim=3).eval()
    given = batch(clips=3, frames=16)
    assert teg.fine is not None
    long, short = (unit_steps(teg.fine, teg.encoder.maps(view)) for view in given.views)
    when = times([0.0] * 3, LONG_S), times([0.3] * 3, SHORT_S)
    near = torch.full((3,), LONG_S, dtype=torch.float64)
    expected = sum(
        aligned_nce(one, two, near, 0.1, same_video_negatives=True).item()
        for one, two in (
            ((short, when[1]), (long, when[0])),
            ((long, when[0]), (short, when[1])),
        )
    )
    assert teg(given).loss.item() == pytest.approx(expected, rel=1e-6)


# --- the fine-grained loss


@pytest.mark.parametrize("same_video", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_the_loss_equals_slow_sums(same_video: bool, turned: bool) -> None:
    torch.manual_seed(0)
    short, long, near = pair()
    asking, asked = (long, short) if turned else (short, long)
    loss = aligned_nce(asking, asked, near, 0.3, same_video_negatives=same_video)
    slow = slow_nce(asking, asked, LONG_S + 1e-6, same_video, 0.3)
    assert loss.item() == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize(("same_video", "far"), [(False, 0), (True, 5)])
def test_equal_embeddings_cost_the_log_of_their_number(same_video: bool, far: int) -> None:
    near = torch.ones(4, dtype=torch.float64)
    same = F.normalize(torch.ones(4, 8, 5), dim=2)
    when = times([0.0] * 4, 1.0)
    at = torch.full((4, 1), 3.0, dtype=torch.float64)  # on a step: 2, 3 and 4 are near, 5 are far
    loss = aligned_nce((same[:, :1], at), (same, when), near, 0.1, same_video_negatives=same_video)
    assert loss.item() == pytest.approx(math.log(1 + 3 * 8 + far), rel=1e-6)


def test_identical_clips_find_themselves_in_time() -> None:
    # Orthogonal moments: own similarity 1, all else 0.
    moments = torch.eye(16).reshape(2, 8, 16)
    when = times([0.0, 0.0], LONG_S)
    near = torch.full((2,), LONG_S, dtype=torch.float64)
    loss = aligned_nce((moments, when), (moments, when), near, 0.1, same_video_negatives=True)
    far = sum(sum(abs(i - j) > 1 for i in range(8)) for j in range(8)) / 8  # 5.25 on average
    assert far == 5.25
    assert loss.item() == pytest.approx(math.log(1 + (8 + far) * math.exp(-10)), rel=1e-3)
    # Turned round, six of eight find their like among the negatives; the middle two lie too near.
    turned = aligned_nce(
        (moments.flip(1), when), (moments, when), near, 0.1, same_video_negatives=True
    )
    assert turned.item() == pytest.approx((6 * 10 + 2 * math.log(1 + 8 + 5)) / 8, rel=1e-3)


def test_features_constant_in_time_pay_for_it_only_with_negatives_of_the_same_video() -> None:
    constant = torch.eye(4)[:, None].expand(4, 8, 4)
    when, near = times([0.0] * 4, LONG_S), torch.full((4,), LONG_S, dtype=torch.float64)
    asking = (constant, when)
    lax = aligned_nce(asking, asking, near, 0.1, same_video_negatives=False)
    strict = aligned_nce(asking, asking, near, 0.1, same_video_negatives=True)
    assert lax.item() < 0.01
    assert strict.item() > 1.5


def test_only_time_itself_matters_and_not_where_it_begins_or_in_which_order_videos_stand() -> None:
    torch.manual_seed(0)
    (q, at), (k, when), near = pair(clips=4)
    loss = aligned_nce((q, at), (k, when), near, 0.1, same_video_negatives=True)
    later = aligned_nce((q, at + 1000.5), (k, when + 1000.5), near, 0.1, same_video_negatives=True)
    assert later.item() == pytest.approx(loss.item(), rel=1e-6)
    order = torch.tensor([2, 0, 3, 1])
    asking, asked = (q[order], at[order]), (k[order], when[order])
    mixed = aligned_nce(asking, asked, near[order], 0.1, same_video_negatives=True)
    assert mixed.item() == pytest.approx(loss.item(), rel=1e-6)
    shifted = aligned_nce((q, at + SHORT_S), (k, when), near, 0.1, same_video_negatives=True)
    assert shifted.item() != pytest.approx(loss.item(), rel=1e-3)


def test_a_step_outside_the_other_clip_does_not_count() -> None:
    torch.manual_seed(0)
    (q, at), asked, near = pair()
    inside = aligned_nce((q[:, :4], at[:, :4]), asked, near, 0.1, same_video_negatives=True)
    at = torch.cat([at[:, :4], at[:, 4:] + 100], dim=1)
    loss = aligned_nce((q, at), asked, near, 0.1, same_video_negatives=True)
    assert loss.item() == pytest.approx(inside.item(), rel=1e-6)
    nowhere = aligned_nce((q, at + 100), asked, near, 0.1, same_video_negatives=True)
    assert nowhere.item() == 0.0


def test_the_similarities_are_computed_in_full_precision() -> None:
    torch.manual_seed(0)
    asking, asked, near = pair()
    full = aligned_nce(asking, asked, near, 0.1, same_video_negatives=True)
    with torch.autocast("cpu", torch.bfloat16):
        again = aligned_nce(asking, asked, near, 0.1, same_video_negatives=True)
    assert again.item() == full.item()


# --- the method


def test_without_the_fine_term_the_loss_is_that_of_cvrl(mean_colour: Build) -> None:
    torch.manual_seed(0)
    teg = method(mean_colour(), fine_weight=0.0)
    cvrl = choose("vidssl.methods", {"name": "cvrl", "hidden": 6, "dim": 4}).build(teg.encoder)
    own = teg.state_dict()
    theirs = cvrl.state_dict()
    for name in theirs:
        if name.startswith("projector."):
            theirs[name] = own[name.replace("projector", "persistent")]
    cvrl.load_state_dict(theirs)
    given = batch()
    assert teg(given).loss.item() == cvrl(given).loss.item()


def test_without_the_fine_term_the_loss_is_the_contrast_of_whole_clips(mean_colour: Build) -> None:
    torch.manual_seed(0)
    teg = method(mean_colour(), fine_weight=0.0)
    given = batch()
    assert teg.persistent is not None
    z = F.normalize(teg.persistent(teg.encoder(torch.cat(given.views))), dim=1)
    one, two = z.chunk(2)
    expected = nt_xent(one, two, 0.1).item()
    assert teg(given).loss.item() == pytest.approx(expected, rel=1e-6)
    assert teg(Batch(given.views)).loss.item() == pytest.approx(expected, rel=1e-6)  # no times


@pytest.mark.parametrize(("weight", "heads"), [(0.0, {"persistent"}), (1.0, {"fine"})])
def test_a_term_without_weight_has_no_head(
    weight: float, heads: set[str], mean_colour: Build
) -> None:
    teg = method(mean_colour(), fine_weight=weight)
    teg(batch()).loss.backward()
    trained = {name for name, p in teg.named_parameters() if p.grad is not None}
    assert trained == {name for name, _ in teg.named_parameters()}
    assert {name.split(".")[0] for name in trained} == {"encoder", *heads}


def test_the_terms_are_mixed_by_their_weight(mean_colour: Build) -> None:
    torch.manual_seed(0)
    teg, given = method(mean_colour(), fine_weight=0.25), batch()
    output = teg(given)
    fine, persistent = output.scalars["fine"].item(), output.scalars["persistent"].item()
    assert output.loss.item() == pytest.approx(0.25 * fine + 0.75 * persistent, rel=1e-6)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in teg.encoder.parameters())


def test_the_heads_of_the_published_width_have_the_parameters_of_their_layers() -> None:
    encoder = choose("vidssl.backbones", {"name": "r3d"}).build()
    teg = Config().build(encoder)
    assert teg.fine is not None
    assert teg.persistent is not None
    count = {
        name: sum(p.numel() for p in head.parameters())
        for name, head in (("fine", teg.fine), ("persistent", teg.persistent))
    }
    hidden, last = 2048 * 2048 + 2 * 2048, 2048 * 128 + 128
    assert count == {"fine": hidden + last, "persistent": 3 * hidden + last}
    assert sum(p.numel() for p in encoder.parameters()) == 31_672_128


def test_what_is_watched_is_named_as_in_other_methods(mean_colour: Build) -> None:
    teg, given = method(mean_colour()), batch(clips=6)
    health = {"positive_similarity", "negative_similarity", "top1", "feature_std", "effective_rank"}
    over_time = {"time_similarity_near", "time_similarity_far"}
    assert set(teg(given).scalars) == {"fine", "persistent"} | health | over_time
    unwatched = Batch(given.views, times_s=given.times_s, watched=False)
    assert set(teg(unwatched).scalars) == {"fine", "persistent"}


def test_similarity_over_time_tells_neighbours_from_the_ends() -> None:
    from vidssl.methods.teg import _over_time

    angle = torch.tensor([0.0, 60.0, 120.0, 180.0]).deg2rad()
    seen = _over_time(torch.stack([angle.cos(), angle.sin()], dim=1)[None])
    assert seen["time_similarity_near"].item() == pytest.approx(0.5)
    assert seen["time_similarity_far"].item() == pytest.approx(-1.0)


def test_a_video_of_one_frame_does_no_harm(mean_colour: Build) -> None:
    teg, given = method(mean_colour()), batch()
    still = tuple(torch.zeros_like(each) for each in given.times_s)
    loss = teg(Batch(given.views, times_s=still)).loss
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in teg.parameters())


def test_an_encoder_that_leaves_one_step_is_refused_with_the_way_out() -> None:
    clips = torch.Size([2, 3, 1, 32, 32])
    with pytest.raises(RecipeError, match=r"makes 1 step in time of 1 frames.*backbone\.frames"):
        Config().require_map(clips, torch.Size([2, 8, 1, 4, 4]))
    Config().require_map(clips, torch.Size([2, 8, 2, 1, 1]))


def test_a_batch_without_times_is_refused(mean_colour: Build) -> None:
    with pytest.raises(ValueError, match="the times of 2 views, got 0"):
        method(mean_colour())(Batch(batch().views))


def test_a_batch_of_one_is_refused_where_other_videos_are_the_negatives(
    mean_colour: Build,
) -> None:
    for settings in ({}, {"fine_weight": 1.0, "same_video_negatives": False}):
        with pytest.raises(ValueError, match="at least 2 clips, found 1"):
            Config.model_validate(settings).require_batch(1)
        Config.model_validate(settings).require_batch(2)
    alone = {"fine_weight": 1.0, "same_video_negatives": True}
    Config.model_validate(alone).require_batch(1)
    teg = method(mean_colour(), **alone)
    assert math.isfinite(teg(batch(clips=1)).loss.item())


@pytest.mark.parametrize(("weight", "norm"), [(0.5, "sync"), (1.0, "group")])
def test_two_processes_train_as_one(
    weight: float, norm: str, two_processes_equal_one: Callable[..., None]
) -> None:
    two_processes_equal_one(
        {"name": "teg", "fine_weight": weight, "hidden": 32, "dim": 16},
        {"name": "slow", "width": 8, "depths": [1, 1, 1, 1], "frames": 4, "norm": norm},
        strides=(4, 2),
    )


@pytest.mark.parametrize(
    "backbone",
    [
        {"name": "slow", "width": 8, "depths": [1, 1, 1, 1], "frames": 4},
        {"name": "r3d", "width": 8, "depths": [1, 1, 1, 1], "frames": 4},
        {"name": "slowfast", "width": 8, "depths": [1, 1, 1, 1], "frames": 8, "alpha": 4,
         "beta_inverse": 2},
    ],
)  # fmt: skip
def test_training_lowers_the_loss_of_any_backbone(backbone: dict[str, object]) -> None:
    torch.manual_seed(0)
    config = choose("vidssl.backbones", backbone)
    teg = method(config.build(), hidden=32, dim=16)
    frames = config.frames
    video = torch.randn(6, 3, 2 * frames, 1, 1) + 0.1 * torch.randn(6, 3, 2 * frames, 32, 32)
    # The long clip holds every second frame of the video, the short one its middle half.
    views = (video[:, :, ::2], video[:, :, frames // 2 : frames // 2 + frames])
    when = times([0.0] * 6, 4 / 30, frames), times([frames // 2 / 15] * 6, 2 / 30, frames)
    optimizer = torch.optim.AdamW(teg.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = teg(Batch(views, times_s=when)).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_a_resumed_method_goes_on_as_if_it_had_not_stopped(mean_colour: Build) -> None:
    torch.manual_seed(0)
    teg, again = method(mean_colour()), method(mean_colour())
    teg(batch())  # moves the statistics of the heads
    again.load_state_dict(teg.state_dict())
    given = batch()
    assert again.eval()(given).loss.item() == teg.eval()(given).loss.item()


def test_a_pixel_that_is_no_number_shows_in_the_loss(mean_colour: Build) -> None:
    given = batch()
    given.views[0][0, 0, 0, 0, 0] = math.nan
    assert math.isnan(method(mean_colour())(given).loss.item())
