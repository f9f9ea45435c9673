"""The transformer decoder: its size by hand, a slow formula, and what may and may not matter."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.special import erf, softmax
from torch import Tensor, nn

from vidssl.backbones import Encoder
from vidssl.detection.context import ContextConfig, decoder
from vidssl.detection.detector import DetectionBatch, Detector, HeadConfig
from vidssl.features.operators import BankWindow
from vidssl.nn.reconstructor import Unit
from vidssl.recipe import Detection, find, load

Make = Callable[[], Encoder]
Array = NDArray[np.float64]
SMALL = decoder.Config(layers=2, heads=2, width=6)


def detector_on(
    encoder: Encoder, context: object = SMALL, *, operator: object = None, lively: bool = True
) -> Detector:
    torch.manual_seed(0)
    config = HeadConfig.model_validate({"context": context, "operator": operator, "dropout": 0})
    detector = Detector(encoder, config, num_classes=5)
    if lively:
        nn.init.normal_(detector.classifier.weight, std=0.5)
    return detector


def clips_and_boxes(counts: list[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
    torch.manual_seed(1)
    corners = [torch.rand(count, 2, 2).sort(dim=1).values.flatten(1) for count in counts]
    return torch.randn(len(counts), 3, 6, 24, 32), tuple(corners)


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_it_has_as_many_parameters_as_worked_out_by_hand(make_encoder: Make) -> None:
    # ConST-CL's: cells of 2048 + 16. A unit: q, k, v, LayerNorm, two of 128 x 128.
    first = 3 * (2064 * 128 + 128) + 2 * 128 + 2 * (128 * 128 + 128)
    later = (384 * 128 + 128) + 2 * (2064 * 128 + 128) + 2 * 128 + 2 * (128 * 128 + 128)
    places = (1 * 4 + 4) + (4 * 8 + 8) + (2 * 4 + 4) + (4 * 8 + 8)
    released = decoder.Config().build(2048)
    assert count(released) == 3 * (first + 2 * later) + places == 6_146_020
    assert released.features == 384
    # As many as in the reconstructor (spec: 6,139,776), whose queries have no place: 3 * 16 * 128.
    assert count(released.layers) == 6_139_776 + 3 * 16 * 128
    hidden = decoder.Config(hidden=1024).build(2048)
    assert count(hidden) == count(released) + 384 * 1024 + 2 * 1024
    encoder = make_encoder()
    encoder.features = 2048
    whole = Detector(encoder, HeadConfig(context=decoder.Config()), num_classes=80)
    assert count(whole.classifier) == 384 * 80 + 80


def test_the_recipe_of_const_cl_has_the_described_hidden_layer() -> None:
    plan = load(Detection, find(Detection, "const_cl_decoder_ava"))
    with torch.device("meta"):  # of 46 million weights only the number is asked
        whole = Detector(plan.backbone.build(), plan.head, num_classes=80)
    assert whole.context is not None
    assert whole.context.features == 1024
    # The decoder as above, a hidden layer with batch norm in place of its bias, 80 classes.
    assert count(whole.context) == 6_146_020 + 384 * 1024 + 2 * 1024 == 6_541_284
    assert count(whole.classifier) == 1024 * 80 + 80 == 82_000
    assert count(whole) - count(whole.encoder) == 6_541_284 + 82_000


def linear(layer: nn.Module, x: Array) -> Array:
    assert isinstance(layer, nn.Linear)
    answer: Array = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    return answer


def mlp(layers: nn.Module | None, x: Array) -> Array:
    assert isinstance(layers, nn.Sequential)
    return linear(layers[2], np.maximum(linear(layers[0], x), 0))


def slow_unit(unit: nn.Module, query: Array, memory: Array) -> Array:
    """One box, all cells of its clip."""
    assert isinstance(unit, Unit)
    q, k, v = linear(unit.query, query), linear(unit.key, memory), linear(unit.value, memory)
    weights = softmax(k @ q / math.sqrt(len(q)))
    h = weights @ v + q
    h = (h - h.mean()) / np.sqrt(h.var() + 1e-12)
    h = h * unit.norm.weight.detach().numpy() + unit.norm.bias.detach().numpy()
    h = linear(unit.inner, h)
    return linear(unit.outer, h * 0.5 * (1 + erf(h / math.sqrt(2))))


def test_it_equals_a_slow_formula_box_by_box() -> None:
    torch.manual_seed(0)
    module = SMALL.build(4).double()
    maps = torch.randn(2, 4, 3, 2, 5, dtype=torch.float64)
    clip = torch.tensor([1, 0, 1])
    short = torch.randn(3, 4, dtype=torch.float64)

    def corner(map_BPTHW: Tensor) -> Tensor:
        """Pool as if every box lay on the first cell."""
        return map_BPTHW.mean(dim=2)[:, :, 0, 0].index_select(0, clip)

    assert isinstance(module, decoder.Decoder)
    found = module(short, maps, clip, corner).detach().numpy()
    for box, number in enumerate(clip.tolist()):
        cells, places = [], {}
        for t in range(3):
            for y in range(2):
                for x in range(5):
                    time = mlp(module.time, np.array([t - 1.0]))
                    space = mlp(module.space, np.array([y - 0.5, x - 2.0]))
                    places[t, y, x] = np.concatenate([time, space])
                    cells.append(np.append(maps[number, :, t, y, x].numpy(), places[t, y, x]))
        at_corner = np.mean([places[t, 0, 0] for t in range(3)], axis=0)
        state = np.append(short[box].numpy(), at_corner)
        for layer in module.layers:
            assert isinstance(layer, nn.ModuleList)
            state = np.concatenate([slow_unit(unit, state, np.stack(cells)) for unit in layer])
        assert found[box] == pytest.approx(state, abs=1e-9)


def test_boxes_are_scored_one_by_one_in_any_order(make_encoder: Make) -> None:
    detector = detector_on(make_encoder()).eval()
    clips, boxes = clips_and_boxes([2, 0, 3])
    together = detector.logits(clips, boxes)
    assert together.shape == (5, 5)
    one_by_one = [
        detector.logits(clips[clip : clip + 1], (corners[None],))
        for clip, several in enumerate(boxes)
        for corners in several
    ]
    assert torch.allclose(together, torch.cat(one_by_one), atol=1e-5)
    order, clip_N = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([0, 0, 2, 2, 2])
    mixed = detector.logits_of(clips, torch.cat(boxes)[order], clip_N[order])
    assert torch.allclose(mixed, together[order], atol=1e-5)


def test_a_box_sees_what_lies_outside_of_it_but_not_other_clips(make_encoder: Make) -> None:
    detector, plain = detector_on(make_encoder()).eval(), detector_on(make_encoder(), None).eval()
    clips, _ = clips_and_boxes([1, 1])
    boxes = (torch.tensor([[0.0, 0.0, 0.2, 0.2]]),) * 2
    changed = clips.clone()
    changed[0, :, :, :, 24:] = 0  # far to the right of the box of the first clip
    before, after = detector.logits(clips, boxes), detector.logits(changed, boxes)
    assert not torch.allclose(before[0], after[0], atol=1e-4)
    assert torch.allclose(before[1], after[1], atol=1e-6)
    one, two = plain.logits(clips, boxes), plain.logits(changed, boxes)
    assert torch.allclose(one, two, atol=1e-6)


def test_places_tell_apart_what_pictures_do_not(make_encoder: Make) -> None:
    # A clip of one grey has the same feature in every inner box: two boxes, one score.
    clips = torch.ones(1, 3, 6, 48, 48)
    boxes = (torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 0.75, 0.75]]),)
    for positions in (True, False):
        context = decoder.Config(layers=2, heads=2, width=6, positions=positions)
        one, two = detector_on(make_encoder(), context).eval().logits(clips, boxes)
        assert torch.allclose(one, two, atol=1e-6) is not positions


@pytest.mark.parametrize("hidden", [0, 7])
@pytest.mark.parametrize("counts", [[2, 2], [1, 0], [0, 0]])
def test_every_weight_gets_a_gradient_even_without_boxes(
    make_encoder: Make, hidden: int, counts: list[int]
) -> None:
    context = decoder.Config(layers=2, heads=2, width=6, hidden=hidden)
    detector = detector_on(make_encoder(), context)
    clips, boxes = clips_and_boxes(counts)
    labels = torch.randint(0, 2, (sum(counts), 5))
    loss = detector(DetectionBatch(clips, boxes, labels)).loss
    loss.backward()
    assert loss.isfinite()
    for name, weight in detector.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        # A bias of all keys moves all scores alike.
        if sum(counts) == 4 and not name.endswith("key.bias"):
            assert weight.grad.any(), name
    assert all(value.isfinite().all() for value in detector.state_dict().values())


def test_the_hidden_layer_is_normalised_over_boxes_and_by_what_it_remembers() -> None:
    torch.manual_seed(0)
    norm = decoder.BoxNorm(3)
    x = torch.randn(8, 3)
    by_hand = (x - x.mean(dim=0)) / (x.var(dim=0, correction=0) + 1e-5).sqrt()
    assert torch.allclose(norm(x), by_hand, atol=1e-6)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    one = norm(x[:1])
    assert all(torch.equal(norm.state_dict()[n], v) for n, v in before.items())
    assert torch.equal(one, norm.eval()(x[:1]))


def test_a_bank_s_operator_asks_by_the_box_s_own_feature(make_encoder: Make) -> None:
    operator = {"name": "fbo_avg"}
    detector = detector_on(make_encoder(), operator=operator).eval()
    assert detector.classifier.in_features == 12 + 8
    clips, boxes = clips_and_boxes([1, 2])
    rows = torch.randn(2, 3, 8)
    window = BankWindow(rows, torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3))
    found = detector.logits(clips, boxes, window)
    # By hand: the decoder's answer, then the mean of the clip's rows.
    alone = detector_on(make_encoder()).eval()
    alone.load_state_dict({**detector.state_dict(), "classifier.weight": torch.zeros(5, 12)})
    alone.classifier.weight.data.copy_(detector.classifier.weight[:, :12])
    means = rows.mean(dim=1)[torch.tensor([0, 1, 1])]
    expected = alone.logits(clips, boxes) + means @ detector.classifier.weight[:, 12:].T
    assert torch.allclose(found, expected, atol=1e-5)
    # What a bank stores is the box's feature, not the decoder's answer.
    assert detector.features(clips, boxes).shape == (3, 8)


def test_without_a_context_nothing_has_changed(make_encoder: Make) -> None:
    detector = detector_on(make_encoder(), None).eval()
    clips, boxes = clips_and_boxes([1, 2])
    expected = detector.classifier(detector.features(clips, boxes))
    assert torch.equal(detector.logits(clips, boxes), expected)
    assert not any("context" in name for name in detector.state_dict())


def test_it_is_chosen_by_name_and_survives_being_written_down() -> None:
    config = HeadConfig.model_validate({"context": {"name": "decoder", "layers": 1, "heads": 6}})
    assert isinstance(config.context, ContextConfig)
    assert HeadConfig.model_validate_json(config.model_dump_json()) == config
    for options, message in (
        ({"name": "decode"}, r"no 'decode' in vidssl.detection.context; did you mean 'decoder'\?"),
        ({"name": "decoder", "units": 3}, r"units\n  Extra inputs are not permitted"),
        ({"name": "decoder", "heads": 0}, "greater than 0"),
        ({"layers": 2}, "needs a name, one of decoder"),
    ):
        with pytest.raises(ValidationError, match=message):
            HeadConfig.model_validate({"context": options})


def far_task(generator: torch.Generator, batch: int = 32) -> tuple[Tensor, Tensor]:
    """Clips in which what a box does is told by a light elsewhere: on the right, or nowhere."""
    clips = 0.1 * torch.randn(batch, 3, 2, 16, 16, generator=generator)
    shows = torch.rand(batch, generator=generator) > 0.5
    clips[shows, 0, :, :4, 12:] += 3.0
    return clips, shows[:, None]


@pytest.mark.parametrize(("context", "knows"), [(None, False), (SMALL, True)])
def test_it_learns_from_the_rest_of_the_clip_what_the_box_does_not_show(
    make_encoder: Make, context: object, knows: bool
) -> None:
    torch.manual_seed(0)
    config = HeadConfig.model_validate({"context": context, "dropout": 0})
    detector = Detector(make_encoder(), config, num_classes=1, freeze_backbone=True)
    optimizer = torch.optim.Adam(detector.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    box = (torch.tensor([[0.05, 0.6, 0.3, 0.9]]),)
    for _ in range(100):
        clips, labels = far_task(generator)
        optimizer.zero_grad()
        detector(DetectionBatch(clips, box * 32, labels.int())).loss.backward()
        optimizer.step()
    clips, labels = far_task(generator, 256)
    with torch.no_grad():
        right = (detector.eval().logits(clips, box * 256) > 0) == labels
    share = right.float().mean().item()
    assert share > 0.95 if knows else share < 0.65


@pytest.mark.gpu
def test_a_step_in_half_precision_on_a_gpu_has_finite_gradients(make_encoder: Make) -> None:
    detector = detector_on(make_encoder()).cuda()
    clips, boxes = clips_and_boxes([2, 1])
    on_gpu = tuple(box.cuda() for box in boxes)
    with torch.autocast("cuda", torch.bfloat16):
        batch = DetectionBatch(clips.cuda(), on_gpu, torch.ones(3, 5, device="cuda"))
        output = detector(batch)
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
