"""The whole detector: its loss by hand, what gets a gradient, and what only a bank can teach it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vidssl.backbones import Encoder
from vidssl.detection.detector import (
    DetectionBatch,
    Detector,
    FocalConfig,
    HeadConfig,
    detection_loss,
)
from vidssl.features.operators import BankWindow, OperatorConfig, fbo_nl

Make = Callable[[], Encoder]
ROWS = 12
NO_BOXES = torch.zeros(0, 4)


def detector_on(
    encoder: Encoder, operator: object = None, *, bank_dim: int | None = None, freeze: bool = False
) -> Detector:
    config = HeadConfig(operator=operator)
    return Detector(encoder, config, num_classes=5, bank_dim=bank_dim, freeze_backbone=freeze)


def window_of(clips: int, features: int = 8) -> BankWindow:
    mask = torch.rand(clips, ROWS) > 0.3
    rows = (torch.randn(clips, ROWS, features) * mask[..., None]).half()
    return BankWindow(rows, mask, torch.randint(-30, 30, mask.shape) * mask.float())


def batch_of(counts: list[int], window: BankWindow | None = None) -> DetectionBatch:
    """Clips of noise with so many boxes each, and labels of which some are not known."""
    corners = [torch.rand(count, 2, 2).sort(dim=1).values.flatten(1) for count in counts]
    labels = torch.randint(-1, 2, (sum(counts), 5))
    return DetectionBatch(torch.randn(len(counts), 3, 4, 30, 32), tuple(corners), labels, window)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def test_the_loss_is_the_mean_over_known_labels_by_hand() -> None:
    # Scores: sigmoid(0) = 1/2, sigmoid(ln 3) = 3/4. Losses: ln 2 for label 1 at 1/2; ln 4 for label
    # 0 at 3/4; ln 4/3 for label 1 at 3/4; the fourth is not known. Their mean is
    # (ln 2 + ln 4 + ln 4/3) / 3 = ln(32/3) / 3.
    logits = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]])
    output = detection_loss(logits, torch.tensor([[1, 0], [1, -1]]))
    assert output.loss.item() == pytest.approx(math.log(32 / 3) / 3)
    assert output.scalars["positive_score"].item() == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert output.scalars["negative_score"].item() == pytest.approx(3 / 4)


def test_the_focal_loss_by_hand() -> None:
    # As above: p of the three right answers 1/2, 1/4, 3/4; 1 - p squared 1/4, 9/16, 1/16.
    logits = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]])
    labels = torch.tensor([[1, 0], [1, -1]])
    parts = [math.log(2) / 4, math.log(4) * 9 / 16, math.log(4 / 3) / 16]
    focal = detection_loss(logits, labels, FocalConfig(gamma=2)).loss.item()
    assert focal == pytest.approx(sum(parts) / 3)
    weighted = detection_loss(logits, labels, FocalConfig(gamma=2, alpha=0.25)).loss.item()
    assert weighted == pytest.approx((parts[0] / 4 + parts[1] * 3 / 4 + parts[2] / 4) / 3)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_and_its_gradient_equal_the_formula_in_double(gamma: float) -> None:
    torch.manual_seed(0)
    logits = (4 * torch.randn(40, 5)).requires_grad_()
    labels = torch.randint(0, 2, (40, 5))
    detection_loss(logits, labels, FocalConfig(gamma=gamma, alpha=0.25)).loss.backward()  # type: ignore[no-untyped-call]
    again = logits.detach().double().requires_grad_()
    p = torch.where(labels == 1, again.sigmoid(), 1 - again.sigmoid())
    alpha = torch.where(labels == 1, 0.25, 0.75)
    expected = (-alpha * (1 - p) ** gamma * p.log()).mean()
    expected.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert again.grad is not None
    torch.testing.assert_close(logits.grad.double(), again.grad, rtol=1e-4, atol=1e-8)


def test_a_focal_loss_without_focus_is_the_cross_entropy_and_finite_where_certain() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 5), torch.randint(-1, 2, (7, 5))
    plain = detection_loss(logits, labels).loss
    assert torch.equal(detection_loss(logits, labels, FocalConfig(gamma=0)).loss, plain)
    certain = torch.tensor([[200.0, -200.0], [-95.0, -95.0]], requires_grad=True)
    for gamma in (0.5, 2.0):
        output = detection_loss(certain, torch.tensor([[1, 1], [-1, 0]]), FocalConfig(gamma=gamma))
        output.loss.backward()  # type: ignore[no-untyped-call]
        assert certain.grad is not None
        assert certain.grad.isfinite().all()


def test_a_recipe_s_detector_learns_by_its_focal_loss(make_encoder: Make) -> None:
    torch.manual_seed(0)
    head = HeadConfig.model_validate({"focal": {"gamma": 2.0}})
    detector = Detector(make_encoder(), head, num_classes=5)
    assert detector(batch_of([3, 2])).loss.item() == pytest.approx(math.log(2) / 4, abs=0.01)


def test_half_precision_logits_make_a_full_precision_loss() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 5).to(torch.bfloat16), torch.ones(7, 5)
    loss = detection_loss(logits, labels).loss
    assert loss.dtype == torch.float32
    assert torch.equal(loss, detection_loss(logits.float(), labels).loss)


@pytest.mark.parametrize("operator", [None, {"name": "fbo_nl", "width": 16}])
def test_the_loss_starts_at_ln_2(make_encoder: Make, operator: dict[str, Any] | None) -> None:
    torch.manual_seed(0)
    detector = detector_on(make_encoder(), operator)
    output = detector(batch_of([3, 2], window_of(2) if operator else None))
    assert output.loss.item() == pytest.approx(math.log(2), abs=0.02)
    assert output.scalars["positive_score"].item() == pytest.approx(0.5, abs=0.02)


def test_the_published_classifiers_have_the_published_sizes(make_encoder: Make) -> None:
    encoder = make_encoder()
    encoder.features = 2048
    plain = Detector(encoder, HeadConfig(), num_classes=80)
    assert plain.classifier.weight.shape == (80, 2048)
    long = Detector(encoder, HeadConfig(operator=fbo_nl.Config()), num_classes=80)
    assert sum(p.numel() for p in long.classifier.parameters()) == 204_880  # 2560 * 80 + 80
    assert long.classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not long.classifier.bias.any()


def test_boxes_are_scored_one_by_one_whatever_else_is_in_the_batch(make_encoder: Make) -> None:
    torch.manual_seed(0)
    operator = fbo_nl.Config(width=16, masked=True, time_encoding=True)
    detector = detector_on(make_encoder(), operator).eval()
    assert detector.operator is not None
    for parameter in detector.operator.parameters():
        nn.init.normal_(parameter, std=0.3)
    window = window_of(3)
    batch = batch_of([2, 0, 3], window)
    together = detector.logits(batch.clips, batch.boxes, window)
    assert together.shape == (5, 5)
    one_by_one = [
        detector.logits(
            batch.clips[clip : clip + 1],
            (corners[None],),
            BankWindow(
                window.features[clip : clip + 1],
                window.mask[clip : clip + 1],
                window.offset_s[clip : clip + 1],
            ),
        )
        for clip, boxes in enumerate(batch.boxes)
        for corners in boxes
    ]
    assert torch.allclose(together, torch.cat(one_by_one), atol=1e-5)


def test_a_box_has_its_score_wherever_it_stands_among_the_others(make_encoder: Make) -> None:
    torch.manual_seed(0)
    detector = detector_on(make_encoder(), fbo_nl.Config(width=16)).eval()
    assert detector.operator is not None
    for parameter in detector.operator.parameters():
        nn.init.normal_(parameter, std=0.3)
    batch = batch_of([2, 0, 3], window_of(3))
    listed = detector.logits(batch.clips, batch.boxes, batch.window)
    order = torch.tensor([3, 0, 4, 1, 2])
    boxes, clips = torch.cat(batch.boxes)[order], torch.tensor([0, 0, 2, 2, 2])[order]
    mixed = detector.logits_of(batch.clips, boxes, clips, batch.window)
    assert torch.allclose(mixed, listed[order], atol=1e-5)


def test_the_stored_feature_is_the_first_part_of_what_is_classified(make_encoder: Make) -> None:
    torch.manual_seed(0)
    detector = detector_on(make_encoder()).eval()
    batch = batch_of([1, 2])
    features = detector.features(batch.clips, batch.boxes)
    assert features.shape == (3, 8)
    expected = detector.classifier(features)
    assert torch.equal(detector.logits(batch.clips, batch.boxes), expected)


def test_dropout_acts_on_what_is_classified_in_training_only(make_encoder: Make) -> None:
    torch.manual_seed(0)
    detector = detector_on(make_encoder(), freeze=True)
    batch = batch_of([2, 2])
    for training in (True, False):
        detector.train(training)
        one, two = (detector.logits(batch.clips, batch.boxes) for _ in range(2))
        assert torch.equal(one, two) is not training


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("operator", [None, {"name": "fbo_nl", "width": 16, "masked": True}])
@pytest.mark.parametrize("labels", ["none, as there are no boxes", "none that is known"])
def test_nothing_to_learn_from_gives_a_loss_and_gradients_of_zero(
    make_encoder: Make, freeze: bool, operator: dict[str, Any] | None, labels: str
) -> None:
    torch.manual_seed(0)
    detector = detector_on(make_encoder(), operator, freeze=freeze)
    batch = batch_of([0, 0] if "boxes" in labels else [1, 2], window_of(2) if operator else None)
    batch.labels.fill_(-1)
    output = detector(batch)
    output.loss.backward()
    assert output.loss.item() == 0
    assert [value.item() for value in output.scalars.values()] == [0, 0]
    trained = {name for name, p in detector.named_parameters() if p.requires_grad}
    assert gradients(detector).keys() == trained  # every one, or other processes wait for it
    assert not any(gradient.any() for gradient in gradients(detector).values())


def test_a_frozen_trunk_keeps_weights_and_statistics_and_the_rest_learns(
    make_encoder: Make,
) -> None:
    torch.manual_seed(0)
    detector = detector_on(make_encoder(), freeze=True)
    before = {name: value.clone() for name, value in detector.encoder.state_dict().items()}
    detector.train()
    assert detector.training
    assert not any(module.training for module in detector.encoder.modules())
    detector(batch_of([2, 2])).loss.backward()
    assert gradients(detector).keys() == {"classifier.weight", "classifier.bias"}
    after = detector.encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_trunk_that_is_not_frozen_learns_and_counts(make_encoder: Make) -> None:
    torch.manual_seed(0)
    detector = detector_on(make_encoder())
    detector(batch_of([2, 2])).loss.backward()
    assert all(gradient.any() for gradient in gradients(detector).values())
    assert gradients(detector).keys() == dict(detector.named_parameters()).keys()
    assert int(detector.encoder.state_dict()["norm.num_batches_tracked"]) == 1


def test_no_gradient_enters_the_bank(make_encoder: Make) -> None:
    torch.manual_seed(0)
    detector = detector_on(make_encoder(), fbo_nl.Config(width=16))
    window = window_of(2)
    rows = window.features.float().requires_grad_()
    batch = batch_of([1, 1], BankWindow(rows, window.mask, window.offset_s))
    detector(batch).loss.backward()
    assert rows.grad is None


def test_a_bank_of_another_width_than_the_trunk_is_declared(make_encoder: Make) -> None:
    detector = detector_on(make_encoder(), fbo_nl.Config(width=16), bank_dim=3)
    batch = batch_of([1], window_of(1, features=3))
    assert detector.logits(batch.clips, batch.boxes, batch.window).shape == (1, 5)


@pytest.mark.parametrize(
    ("operator", "window", "message"),
    [
        (None, window_of(2), "needs no window of the bank, got a window"),
        (fbo_nl.Config(width=16), None, "needs a window of the bank, got no window"),
        (fbo_nl.Config(width=16), window_of(1), r"expected a window \(2, Q, 8\), got \(1, 12, 8\)"),
        (
            fbo_nl.Config(width=16),
            window_of(2, 7),
            r"expected a window \(2, Q, 8\), got \(2, 12, 7\)",
        ),
    ],
)
def test_a_window_that_does_not_fit_is_refused(
    make_encoder: Make, operator: fbo_nl.Config | None, window: BankWindow | None, message: str
) -> None:
    detector = detector_on(make_encoder(), operator)
    batch = batch_of([1, 1])
    with pytest.raises(ValueError, match=message):
        detector.logits(batch.clips, batch.boxes, window)


def test_labels_of_another_shape_are_refused(make_encoder: Make) -> None:
    batch = batch_of([1, 1])
    detector = detector_on(make_encoder())
    with pytest.raises(ValueError, match=r"expected labels \(2, 5\), got \(2, 4\)"):
        detector(DetectionBatch(batch.clips, batch.boxes, batch.labels[:, :4]))


def test_an_operator_is_chosen_by_name_and_survives_being_written_down() -> None:
    options = {"name": "fbo_nl", "layers": 3, "window": {"after_s": 1, "pick": "top"}}
    config = HeadConfig(operator=options)
    assert isinstance(config.operator, fbo_nl.Config)
    assert config.operator.layers == 3
    assert config.operator.window.after_s == 1
    assert HeadConfig.model_validate_json(config.model_dump_json()) == config
    assert isinstance(config.operator, OperatorConfig)


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        ({"name": "fbo_n"}, r"no 'fbo_n' in vidssl.features.operators; did you mean 'fbo_nl'\? "
         r"\(choices: fbo_avg, fbo_max, fbo_nl\)"),
        ({"name": "fbo_nl", "depth": 3}, r"depth\n  Extra inputs are not permitted"),
        ({"name": ["fbo_nl"]}, r"no \['fbo_nl'\] in vidssl.features.operators"),
        ({"name": "fbo_nl", "window": {"after_s": 0}}, "greater than 0"),
    ],
)  # fmt: skip
def test_an_operator_that_makes_no_sense_is_refused(operator: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        HeadConfig(operator=operator)


def memory_task(generator: torch.Generator, batch: int = 32) -> tuple[Tensor, BankWindow, Tensor]:
    """Clips of equal noise, and a bank with one telling row among others.

    The labels: the row shows its first feature; it lies in the future. Neither is in the clip.
    """
    clips = torch.ones(batch, 3, 2, 8, 8)
    mask = torch.rand(batch, ROWS, generator=generator) > 0.2
    offset_s = torch.randint(1, 30, (batch, ROWS), generator=generator).float()
    offset_s *= torch.where(torch.rand(batch, ROWS, generator=generator) > 0.5, 1, -1)
    rows = 0.3 * torch.randn(batch, ROWS, 8, generator=generator)
    place = torch.randint(0, ROWS, (batch,), generator=generator)
    each = torch.arange(batch)
    shows = torch.rand(batch, generator=generator) > 0.5
    mask[each, place] = True
    rows[each, place] = 0.0
    rows[each, place, 2] = 3.0  # the mark of the telling row
    rows[each, place, 0] = torch.where(shows, 3.0, -3.0)
    labels = torch.stack([shows, offset_s[each, place] > 0], dim=1)
    return clips, BankWindow(rows * mask[..., None], mask, offset_s * mask), labels


def accuracy_of_a_trained(encoder: Encoder, operator: fbo_nl.Config | None) -> list[list[float]]:
    """Train for a moment; return the share of right answers on new samples, per label.

    And the same with the bank's rows emptied.
    """
    config = HeadConfig(dropout=0, operator=operator)
    detector = Detector(encoder, config, num_classes=2, freeze_backbone=True)
    optimizer = torch.optim.Adam(detector.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    boxes = (torch.tensor([[0.1, 0.1, 0.9, 0.9]]),)
    for _ in range(100):
        clips, window, labels = memory_task(generator)
        batch = DetectionBatch(clips, boxes * 32, labels.int(), window if operator else None)
        optimizer.zero_grad()
        detector(batch).loss.backward()
        optimizer.step()
    detector.eval()
    clips, window, labels = memory_task(generator, 512)
    nothing = BankWindow(*(torch.zeros_like(part) for part in vars(window).values()))
    with torch.no_grad():
        given = [
            detector.logits(clips, boxes * 512, seen if operator else None)
            for seen in (window, nothing)
        ]
    return [((logits > 0) == labels).float().mean(dim=0).tolist() for logits in given]


@pytest.mark.parametrize(
    ("operator", "knows_content", "knows_time"),
    [
        (None, False, False),
        (fbo_nl.Config(width=32, dropout=0, masked=True), True, False),
        (fbo_nl.Config(width=32, dropout=0), True, False),
        (fbo_nl.Config(width=32, dropout=0, masked=True, time_encoding=True), True, True),
    ],
    ids=["no bank", "masked", "zeros take part", "with time"],
)
def test_a_detector_learns_from_the_bank_what_the_clip_does_not_show(
    make_encoder: Make, operator: fbo_nl.Config | None, knows_content: bool, knows_time: bool
) -> None:
    torch.manual_seed(0)
    (content, time), emptied = accuracy_of_a_trained(make_encoder(), operator)
    for accuracy, knows in ((content, knows_content), (time, knows_time)):
        assert accuracy > 0.95 if knows else accuracy < 0.65
    assert max(emptied) < 0.65  # what is not in the clip it knows from the bank alone


@pytest.mark.gpu
def test_a_step_in_half_precision_on_a_gpu_has_finite_gradients(make_encoder: Make) -> None:
    torch.manual_seed(0)
    operator = fbo_nl.Config(width=16, masked=True, time_encoding=True)
    detector = detector_on(make_encoder(), operator).cuda()
    for counts in ([2, 1], [0, 0]):
        window, batch = window_of(2), batch_of(counts)
        on_gpu = DetectionBatch(
            batch.clips.cuda(),
            tuple(boxes.cuda() for boxes in batch.boxes),
            batch.labels.cuda(),
            BankWindow(window.features.cuda(), window.mask.cuda(), window.offset_s.cuda()),
        )
        with torch.autocast("cuda", torch.bfloat16):
            output = detector(on_gpu)
        output.loss.backward()
        assert output.loss.isfinite()
        assert gradients(detector).keys() == dict(detector.named_parameters()).keys()
        assert all(gradient.isfinite().all() for gradient in gradients(detector).values())


# --- classes that nobody labelled


def test_classes_that_the_map_does_not_name_are_not_trained(make_encoder: Make) -> None:
    # Of 5 outputs the map names 1 and 4; the labels of a file hold nothing about the others.
    torch.manual_seed(0)
    encoder = make_encoder()
    detector = Detector(encoder, HeadConfig(dropout=0), num_classes=5, classes=(1, 4))
    batch = batch_of([2, 1])
    batch.labels.clamp_(min=0)
    output = detector(batch)
    output.loss.backward()
    grad = detector.classifier.weight.grad
    assert grad is not None
    assert grad.any(dim=1).tolist() == [True, False, False, True, False]
    logits = detector.logits(batch.clips, batch.boxes)[:, [0, 3]]
    labels = batch.labels[:, [0, 3]]
    by_hand = -torch.where(labels == 1, logits.sigmoid(), 1 - logits.sigmoid()).log().mean()
    assert output.loss.item() == pytest.approx(by_hand.item(), rel=1e-4)
    assert "ignored" not in detector.state_dict()


def test_a_class_beyond_the_outputs_is_refused(make_encoder: Make) -> None:
    with pytest.raises(ValueError, match=r"expected classes from 1 to 5, got \[0, 6\]"):
        Detector(make_encoder(), HeadConfig(), num_classes=5, classes=(6, 0))
