"""The table of settings against the sizes and costs that the authors' networks have."""

import pytest
import torch

from vidssl.backbones import slow, slowfast
from vidssl.jobs.models import SETTINGS, ModelRow, Setting, measure, run


@pytest.fixture(scope="module")
def rows() -> dict[str, ModelRow]:
    return {row.name: row for row in run()}


@pytest.mark.slow
def test_there_is_a_row_for_each_setting(rows: dict[str, ModelRow]) -> None:
    assert list(rows) == list(SETTINGS)


# The figures are exact to their last digit: ``half`` is half of it. R3D and RS: our own count.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "params", "gflops", "half"),
    [
        ("slow_r50_4x16", 32_454_096, 27.3, 0.05),
        ("slow_r50_8x8", 32_454_096, 54.5, 0.05),
        ("slowfast_r50_4x16", 34_480_216, 36.10, 0.005),
        ("slowfast_r50_8x8", 34_566_488, 65.71, 0.005),
        ("slowfast_r101_8x8", 53_774_808, 106.5, 0.05),
        ("slowfast_r101_8x8_101_101", 62_826_968, 125.9, 0.05),
        ("slowfast_r101_16x8", 53_774_808, 213.0, 0.05),
        ("slowfast_r101_16x8_nl", 60_080_088, 233.96, 0.005),
        ("i3d_r50_8x8", 28_043_472, 37.1, 0.05),
        ("c2d_r50_8x8", 24_327_632, 25.5, 0.05),
        ("r3d_50_32x2", 32_491_728, 118.9, 0.05),
        ("resnet_rs_50", 48_129_840, 114.97, 0.005),
    ],
)
def test_size_and_cost_at_256_pixels(
    rows: dict[str, ModelRow], name: str, params: int, gflops: float, half: float
) -> None:
    row = rows[name]
    assert row.crop == 256
    assert row.params == params
    assert row.gflops == pytest.approx(gflops, abs=half)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gflops"), [("slowfast_r50_4x16", 27.64), ("slowfast_r50_8x8", 50.31)]
)
def test_cost_at_224_pixels(name: str, gflops: float) -> None:
    assert measure(name, SETTINGS[name], crop_px=224).gflops == pytest.approx(gflops, abs=0.005)


def test_the_count_of_a_network_that_fits_on_paper() -> None:
    # 1 frame of 32 pixels, width 2. Stem: 16 x 16 cells x 3 x 2 x 49 = 75,264.
    # Bottlenecks with a projection; cells x (in x inner + inner x inner x 9 + inner x 4 inner
    # + in x 4 inner), except that conv1 runs before the stride, on the stage's input cells:
    #   res2: 8 x 8 cells, in 2, inner 2:   64 x (4 + 36 + 16 + 16)                   =  4,608
    #   res3: 8 x 8 to 4 x 4, in 8, inner 4:    64 x 32 + 16 x (144 + 64 + 128)       =  7,424
    #   res4: 4 x 4 to 2 x 2, in 16, inner 8:   16 x 128 + 4 x (576 + 256 + 512)      =  7,424
    #   res5: 2 x 2 to 1 x 1, in 32, inner 16:   4 x 512 + 1 x (2304 + 1024 + 2048)   =  7,424
    # Temporal kernels of 3 would triple conv1, hence 1 throughout. Linear: 64 x 400 = 25,600.
    config = slow.Config(width=2, depths=(1, 1, 1, 1), frames=1, temporal_kernels=(1, 1, 1, 1, 1))
    row = measure("paper", Setting(config), crop_px=32)
    assert row.gflops * 1e9 == pytest.approx(75_264 + 4_608 + 3 * 7_424 + 25_600)


def test_a_row_says_what_goes_in_and_comes_out() -> None:
    config = slowfast.Config(width=8, depths=(1, 1, 1, 1), frames=8, stride=3)
    row = measure("small", Setting(config), crop_px=64)
    assert (row.name, row.frames, row.stride, row.crop) == ("small", 8, 3, 64)
    assert row.feature_dim == 256 + 32
    assert row.published is None


def test_quoted_accuracies_have_a_source() -> None:
    quoted = [setting.published for setting in SETTINGS.values() if setting.published]
    assert len(quoted) > 25
    assert all(known.source and 50 < known.top1 < 90 for known in quoted)
    assert {known.views for known in quoted} == {5, 30}


def test_settings_that_can_be_told_apart_are() -> None:
    # Two settings of one network differ in their clip or crop, or in nothing that weights show.
    seen = [(s.config.model_dump_json(), s.crop_px) for s in SETTINGS.values()]
    assert len(set(seen)) == len(seen)


def test_counting_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    measure("slow_r50_8x8", SETTINGS["slow_r50_8x8"], crop_px=64)
    assert torch.equal(torch.get_rng_state(), before)
