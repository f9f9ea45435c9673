"""FBO-NL: sizes and starting point of the published model, and a slow copy of its formula."""

import math
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidssl.errors import BankError
from vidssl.features.operators.fbo_nl import Config, FBONonLocal, Layer, attend, time_features

Array = NDArray[np.float64]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def inputs(boxes: int = 3, rows: int = 10, short: int = 6, bank: int = 5) -> Inputs:
    """A box's features, and windows of which about half the rows are there."""
    mask = torch.rand(boxes, rows) > 0.5
    features = torch.randn(boxes, rows, bank) * mask[..., None]
    offset_s = torch.randint(-30, 30, (boxes, rows)) * mask
    return torch.randn(boxes, short), features, mask, offset_s.float()


def awake(config: Config, short: int = 6, bank: int = 5) -> FBONonLocal:
    """An operator in evaluation mode whose every weight and bias does something."""
    operator = config.build(short, bank).eval()
    for parameter in operator.parameters():
        nn.init.normal_(parameter, std=0.5)
    return operator


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_published_model_has_the_published_number_of_parameters() -> None:
    operator = Config().build(2048, 2048)
    assert count(operator.query) == count(operator.memory) == 1_049_088  # 2048 * 512 + 512
    assert [count(layer) for layer in operator.layers] == [1_050_624] * 2  # 4 * (512 * 512 + 512)
    assert count(operator) == 4_199_424
    assert count(Config(layers=3).build(2048, 2048)) == 4_199_424 + 1_050_624
    assert operator.features == 512


def test_weights_start_as_published() -> None:
    torch.manual_seed(0)
    operator = Config().build(2048, 2048)
    for name, parameter in operator.named_parameters():
        if name.endswith("bias") or ".out." in name:
            assert not parameter.any(), name
        else:
            assert parameter.std().item() == pytest.approx(0.01, rel=0.02), name
            assert abs(parameter.mean().item()) < 1e-4, name


@pytest.mark.parametrize("time_encoding", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_at_the_start_the_answer_is_the_box_itself_whatever_the_bank(
    masked: bool, time_encoding: bool
) -> None:
    torch.manual_seed(0)
    short, *window = inputs()
    for form in ("pre", "post"):
        config = Config(width=8, form=form, masked=masked, time_encoding=time_encoding)
        operator = config.build(6, 5).eval()
        itself = operator.query(short)
        expected = itself if form == "pre" else itself.relu()
        assert torch.equal(operator(short, *window), expected)


def test_the_post_form_starts_with_nothing_below_zero_as_its_description_says() -> None:
    torch.manual_seed(0)
    operator = Config(width=8, form="post").build(6, 5).eval()
    assert isinstance(operator.query, nn.Linear)
    operator.query.weight.data.copy_(torch.eye(8, 6))
    short = torch.tensor([[2.0, -3.0, 0.5, -0.1, 0.0, 1.0]])
    _, *window = inputs(boxes=1)
    assert operator(short, *window).tolist() == [[2.0, 0.0, 0.5, 0.0, 0.0, 1.0, 0.0, 0.0]]
    assert "ReLU(W_s S)" in (Config.build.__doc__ or "")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("form", ["pre", "post"])
def test_the_answer_equals_the_formula_box_by_box(
    form: Literal["pre", "post"], masked: bool
) -> None:
    torch.manual_seed(1)
    operator = awake(Config(width=8, layers=3, form=form, masked=masked)).double()
    short, bank, mask, offset_s = inputs()
    got = operator(short.double(), bank.double(), mask, offset_s.double())

    def apply(linear: nn.Module, x: Array) -> Array:
        weight, bias = (part.detach().numpy() for part in linear.parameters())
        return np.asarray(x @ weight.T + bias)

    def norm(y: Array) -> Array:
        return np.asarray((y - y.mean()) / np.sqrt(y.var() + 1e-5))

    for box in range(3):
        a = apply(operator.query, short[box].double().numpy())
        rows = bank[box][mask[box]] if masked else bank[box]
        b = [apply(operator.memory, row.double().numpy()) for row in rows]
        for layer in operator.layers:
            assert isinstance(layer, Layer)
            theta = apply(layer.theta, a)
            weights = [math.exp(theta @ apply(layer.phi, row) / math.sqrt(8)) for row in b]
            y = sum(
                (w * apply(layer.g, row) for w, row in zip(weights, b, strict=True)), np.zeros(8)
            )
            y = y / sum(weights)
            if form == "pre":
                a = a + apply(layer.out, np.maximum(norm(y), 0))
            else:
                a = np.maximum(a + norm(apply(layer.out, y)), 0)
        assert got[box].detach().numpy() == pytest.approx(a, abs=1e-9)


@pytest.mark.parametrize("time_encoding", [False, True])
def test_the_order_of_rows_does_not_matter(time_encoding: bool) -> None:
    torch.manual_seed(0)
    operator = awake(Config(width=8, masked=True, time_encoding=time_encoding))
    short, *window = inputs()
    order = torch.randperm(10)
    expected = operator(short, *window)
    assert torch.allclose(
        operator(short, *(part[:, order] for part in window)), expected, atol=1e-5
    )


def test_what_masked_rows_hold_does_not_matter_and_neither_does_their_number() -> None:
    torch.manual_seed(0)
    operator = awake(Config(width=8, masked=True, time_encoding=True))
    short, bank, mask, offset_s = inputs()
    expected = operator(short, bank, mask, offset_s)
    noise = torch.where(mask[..., None], bank, torch.randn_like(bank))
    assert torch.allclose(operator(short, noise, mask, offset_s), expected, atol=1e-6)
    more = [torch.cat([part, torch.zeros_like(part)], dim=1) for part in (bank, mask, offset_s)]
    assert torch.allclose(operator(short, *more), expected, atol=1e-6)


def test_unless_masked_absent_rows_take_part_as_zeros() -> None:
    torch.manual_seed(0)
    operator = awake(Config(width=8))
    short, bank, mask, offset_s = inputs()
    expected = operator(short, bank, mask, offset_s)
    assert torch.equal(operator(short, bank, torch.ones_like(mask), offset_s), expected)
    more = [torch.cat([part, torch.zeros_like(part)], dim=1) for part in (bank, mask, offset_s)]
    assert not torch.allclose(operator(short, *more), expected, atol=1e-3)


def test_a_window_without_rows_is_answered_by_zero_and_not_by_nan() -> None:
    torch.manual_seed(0)
    theta, phi, g = (torch.randn(2, *shape, requires_grad=True) for shape in ((4,), (5, 4), (5, 4)))
    mask = torch.tensor([[False] * 5, [True, False, False, False, False]])
    y = attend(theta, phi, g, mask)
    assert y[0].tolist() == [0, 0, 0, 0]
    assert torch.equal(y[1], g[1, 0])  # one row gets all the weight
    y.sum().backward()  # type: ignore[no-untyped-call]
    for part in (theta, phi, g):
        assert part.grad is not None
        assert part.grad.isfinite().all()
        assert not part.grad[0].any()


def test_a_masked_row_stays_out_however_low_the_others_score() -> None:
    # Scores of -1e6 for the row that is there, 0 for the one that is not.
    theta, phi = torch.tensor([[1e6]]), torch.tensor([[[-1.0], [0.0]]])
    y = attend(theta, phi, torch.tensor([[[3.0], [7.0]]]), torch.tensor([[True, False]]))
    assert y.tolist() == [[3.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_masking_survives_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    operator = awake(Config(width=8, masked=True, time_encoding=True)).to(dtype)
    short, bank, mask, offset_s = inputs()
    mask[0] = False
    answer = operator(short.to(dtype), bank.to(dtype), mask, offset_s)
    assert answer.dtype == dtype
    assert answer.isfinite().all()


def test_a_zero_bank_gives_all_its_rows_the_same_weight() -> None:
    # Every projected row is then the bias of W_b, and so is their mean: any number of rows will do.
    torch.manual_seed(0)
    operator = awake(Config(width=8))
    short, bank, mask, offset_s = inputs()
    nothing = torch.zeros_like(mask)
    ten = operator(short, torch.zeros_like(bank), nothing, offset_s)
    one = operator(short, torch.zeros_like(bank[:, :1]), nothing[:, :1], offset_s[:, :1])
    assert torch.allclose(ten, one, atol=1e-6)


def test_only_the_time_encoding_tells_past_from_future() -> None:
    torch.manual_seed(0)
    short, bank, mask, offset_s = inputs()
    for time_encoding in (False, True):
        operator = awake(Config(width=8, time_encoding=time_encoding))
        now, mirrored = (operator(short, bank, mask, sign * offset_s) for sign in (1, -1))
        assert torch.allclose(now, mirrored, atol=1e-4) is not time_encoding


def test_a_row_that_is_not_there_has_no_time() -> None:
    torch.manual_seed(0)
    operator = awake(Config(width=8, time_encoding=True))
    short, bank, mask, offset_s = inputs()
    elsewhere = torch.where(mask, offset_s, 17.0)
    expected = operator(short, bank, mask, offset_s)
    assert torch.equal(operator(short, bank, mask, elsewhere), expected)


def test_time_features_by_hand() -> None:
    now, later = time_features(torch.tensor([[0.0, 15.0]]))[0]
    # At 0: no side, no distance, phases (sin, cos) of (0, 1).
    assert now.tolist() == [0, 0, 0, 0, 1, 0, 1, 0, 1]
    # At 15 s: half of 30; ln 16 / ln 31; 2.5, 0.75 and 0.25 turns.
    expected = [1, 0.5, math.log(16) / math.log(31), 0, -1, -1, 0, 1, 0]
    assert later.tolist() == pytest.approx(expected, abs=1e-5)


def test_gradient_reaches_every_weight_once_the_output_weights_have_moved() -> None:
    torch.manual_seed(0)
    operator = Config(width=8, dropout=0, time_encoding=True).build(6, 5)
    for layer in operator.layers:
        assert isinstance(layer, Layer)
        nn.init.normal_(layer.out.weight, std=0.1)
    operator(*inputs()).square().sum().backward()
    for name, parameter in operator.named_parameters():
        assert parameter.grad is not None, name
        # phi's bias shifts all scores of a box alike, which softmax does not see.
        assert parameter.grad.abs().max() > 1e-9 or name.endswith("phi.bias"), name


def test_dropout_acts_on_box_bank_and_each_layer_in_training_only() -> None:
    torch.manual_seed(0)
    operator = Config(width=64, dropout=0.5).build(6, 5)
    for parameter in operator.parameters():
        nn.init.normal_(parameter, std=0.1)
    dropped: list[tuple[tuple[int, ...], float]] = []

    def record(module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        dropped.append((tuple(out.shape), (out == 0).float().mean().item()))

    for module in operator.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(record)
    batch = inputs()
    operator(*batch)
    # The box, the bank, then what each of the two layers adds.
    assert [shape for shape, _ in dropped] == [(3, 64), (3, 10, 64), (3, 64), (3, 64)]
    assert [share for _, share in dropped] == pytest.approx([0.5] * 4, abs=0.15)
    operator.eval()
    assert torch.equal(operator(*batch), operator(*batch))


def test_no_boxes_give_no_answers_and_a_gradient_of_zero() -> None:
    operator = Config(width=8, masked=True, time_encoding=True).build(6, 5)
    answer = operator(*(part[:0] for part in inputs()))
    assert answer.shape == (0, 8)
    answer.sum().backward()
    for name, parameter in operator.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def alike_config(*, time_encoding: bool = False) -> Config:
    return Config(
        width=8, layers=1, masked=True, dropout=0, likeness=12, time_encoding=time_encoding
    )


def test_likeness_starts_with_the_cosine_of_both_sides_relative_to_the_window() -> None:
    torch.manual_seed(0)
    short, bank, mask, offset_s = inputs(short=5)
    scores: list[Tensor] = []
    layer = FBONonLocal(5, 5, alike_config()).eval()
    first = layer.layers[0]
    assert isinstance(first, Layer)
    for side in (first.theta, first.phi):
        side.register_forward_hook(lambda module, args, out: scores.append(out.detach().double()))
    layer(short, bank, mask, offset_s)
    found = torch.einsum("nd,nqd->nq", *scores) / math.sqrt(8)
    for box in range(3):
        rows = bank[box][mask[box]].double().numpy()
        mean, deviation = rows.mean(axis=0), rows.std(axis=0)
        own = (short[box].double().numpy() - mean) / deviation
        others = (rows - mean) / deviation
        cosine = others @ own / np.linalg.norm(others, axis=1) / np.linalg.norm(own)
        assert found[box][mask[box]].numpy() == pytest.approx(12 * cosine, abs=1e-4)


def test_with_likeness_and_room_time_bears_on_no_score_at_first() -> None:
    torch.manual_seed(0)
    config = Config(width=14, layers=1, masked=True, time_encoding=True, likeness=12)
    operator = config.build(5, 5)  # 5 numbers of looks and 9 of time: just room enough
    assert operator.time is not None
    time = operator.time.weight / (3 / 8 * math.sqrt(5))
    together = torch.cat([operator.memory.weight, time], dim=1)
    torch.testing.assert_close(together.T @ together, torch.eye(14), rtol=0, atol=1e-5)


def test_likeness_sees_neither_what_all_rows_share_nor_the_scale_of_a_feature() -> None:
    torch.manual_seed(0)
    operator = awake(alike_config(), short=5)
    short, bank, mask, offset_s = inputs(short=5)
    shift, scale = torch.randn(5) * 3, torch.rand(5) + 0.5
    moved = (bank * scale + shift) * mask[..., None]
    expected = operator(short, bank, mask, offset_s)
    answer = operator(short * scale + shift, moved, mask, offset_s)
    torch.testing.assert_close(answer, expected, rtol=1e-3, atol=1e-4)


def test_likeness_is_finite_for_windows_that_are_emptied_or_hold_no_row_or_one() -> None:
    torch.manual_seed(0)
    operator = awake(alike_config(time_encoding=True), short=5)
    short, bank, mask, offset_s = inputs(short=5)
    one = torch.zeros_like(mask)
    one[:, 3] = True
    for rows, there in ((bank * 0, mask), (bank, mask & False), (bank, one)):
        assert operator(short, rows * there[..., None], there, offset_s * there).isfinite().all()


def test_likeness_has_one_projection_and_refuses_sides_of_different_sizes() -> None:
    operator = alike_config().build(5, 5)
    assert not any(name.startswith("query") for name in operator.state_dict())
    with pytest.raises(BankError, match=r"expected rows of 6 numbers.*found 5"):
        alike_config().build(6, 5)


def test_likeness_learns_to_tell_who_was_there_before_from_few_windows() -> None:
    # Twelve looks of which each window shows four; the question is whether one's own is among them.
    torch.manual_seed(0)
    looks = torch.randn(12, 5)
    operator = alike_config(time_encoding=True).build(5, 5)
    readout = nn.Linear(8, 1)
    optimizer = torch.optim.Adam([*operator.parameters(), *readout.parameters()], lr=0.01)

    def draw() -> tuple[Inputs, Tensor]:
        order = torch.rand(64, 12).argsort(dim=1)
        known = torch.arange(64) % 2 == 0
        own = torch.where(known, order[:, 0], order[:, 4])
        rows = torch.cat([looks[own][:, None], looks[order[:, :4]]], dim=1)  # itself, at 0 s
        rows += torch.randn(64, 5, 5) * 0.1
        offset_s = torch.tensor([0.0, -10, -12, -14, -16]).expand(64, 5)
        return (rows[:, 0], rows, torch.ones(64, 5, dtype=torch.bool), offset_s), known.float()

    for _ in range(100):
        window, known = draw()
        guess = readout(operator(*window))[:, 0]
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(guess, known).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    window, known = draw()
    right = (readout(operator(*window))[:, 0] > 0) == known.bool()
    assert right.float().mean() > 0.85
