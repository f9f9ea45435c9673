"""FBO-avg and FBO-max: what a window says on average, and at most."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from vidssl.backbones import Encoder
from vidssl.detection.detector import Detector, HeadConfig
from vidssl.features.operators import BankWindow, fbo_avg, fbo_max

# Two boxes; of the first window's four rows two are there, of the second's none.
MASK = torch.tensor([[True, False, True, False], [False] * 4])
BANK = torch.tensor([[[1.0, -4.0], [0, 0], [3.0, -2.0], [0, 0]], [[0.0, 0.0]] * 4])
WANTED = {
    (fbo_avg, False): [[1.0, -1.5], [0, 0]],  # over four rows, two of them zero
    (fbo_avg, True): [[2.0, -3.0], [0, 0]],
    (fbo_max, False): [[3.0, 0.0], [0, 0]],  # a row that is absent is a zero, and that is more
    (fbo_max, True): [[3.0, -2.0], [0, 0]],
}


def answer(module: ModuleType, masked: bool, bank: Tensor = BANK, mask: Tensor = MASK) -> Tensor:
    config = module.Config(masked=masked)
    found: Tensor = config.build(5, 2)(torch.randn(2, 5), bank, mask, torch.zeros(mask.shape))
    return found


@pytest.mark.parametrize(("module", "masked"), WANTED)
def test_values_by_hand(module: ModuleType, masked: bool) -> None:
    assert answer(module, masked).tolist() == WANTED[module, masked]


@pytest.mark.parametrize(("module", "masked"), WANTED)
def test_the_order_of_rows_does_not_matter(module: ModuleType, masked: bool) -> None:
    torch.manual_seed(0)
    mask = torch.rand(2, 40) > 0.5
    bank = torch.randn(2, 40, 2) * mask[..., None]
    order = torch.randperm(40)
    given = answer(module, masked, bank, mask)
    torch.testing.assert_close(answer(module, masked, bank[:, order], mask[:, order]), given)


@pytest.mark.parametrize("module", [fbo_avg, fbo_max])
def test_what_a_masked_row_holds_does_not_matter(module: ModuleType) -> None:
    noise = torch.where(MASK[..., None], BANK, torch.full_like(BANK, 100.0))
    assert answer(module, True, noise).tolist() == answer(module, True).tolist()
    assert answer(module, False, noise).tolist() != answer(module, False).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("module", [fbo_avg, fbo_max])
def test_a_window_without_rows_is_finite_in_half_precision(
    module: ModuleType, dtype: torch.dtype
) -> None:
    found = answer(module, True, BANK.to(dtype))
    assert found.dtype == dtype
    assert found[1].tolist() == [0, 0]


@pytest.mark.parametrize("module", [fbo_avg, fbo_max])
def test_the_classifier_has_the_published_number_of_parameters(
    module: ModuleType, make_encoder: Callable[[], Encoder]
) -> None:
    encoder = make_encoder()
    encoder.features = 2048
    operator = module.Config()
    detector = Detector(encoder, HeadConfig(operator=operator), num_classes=80)
    assert sum(p.numel() for p in detector.classifier.parameters()) == 327_760  # 4096 * 80 + 80


@pytest.mark.parametrize("name", ["fbo_avg", "fbo_max"])
def test_a_recipe_s_head_reads_its_bank_with_it(
    name: str, make_encoder: Callable[[], Encoder]
) -> None:
    torch.manual_seed(0)
    head = HeadConfig.model_validate({"operator": {"name": name, "masked": True}})
    detector = Detector(make_encoder(), head, num_classes=3, bank_dim=2).eval()
    clips, boxes = torch.randn(2, 3, 4, 16, 16), (torch.tensor([[0.0, 0.0, 1.0, 1.0]]),) * 2
    window = BankWindow(BANK, MASK, torch.zeros(2, 4))
    other = BankWindow(torch.zeros_like(BANK), torch.zeros_like(MASK), torch.zeros(2, 4))
    given, without = (detector.logits(clips, boxes, w) for w in (window, other))
    assert not torch.equal(given[0], without[0])
    assert torch.equal(given[1], without[1])  # whose window had no rows anyway
