"""The classifier: its start, its sizes, and what it computes."""

import pytest
import torch
import torch.nn.functional as F

from vidssl.backbones import Encoder, slow
from vidssl.features.operators import BankWindow, fbo_nl
from vidssl.recognition.classifier import Classifier


def encoder() -> Encoder:
    return slow.Config(width=8, depths=(1, 1, 1, 1), frames=2).build()


def test_the_layer_starts_as_published() -> None:
    torch.manual_seed(0)
    trunk = encoder()
    trunk.features = 2048
    layer = Classifier(trunk, num_classes=400).classifier
    assert layer.weight.shape == (400, 2048)
    assert abs(layer.weight.std().item() - 0.01) < 1e-4
    assert abs(layer.weight.mean().item()) < 1e-4
    assert not layer.bias.any()


def test_slow_r50_with_400_classes_has_the_authors_number_of_parameters() -> None:
    with torch.device("meta"):
        classifier = Classifier(slow.Config().build(), num_classes=400)
    assert sum(p.numel() for p in classifier.parameters()) == 32_454_096


def test_the_logits_are_a_linear_function_of_the_pooled_feature() -> None:
    torch.manual_seed(0)
    classifier = Classifier(encoder(), num_classes=5).eval()
    torch.nn.init.normal_(classifier.classifier.bias)
    clips = torch.randn(3, 3, 2, 32, 32)
    weight, bias = classifier.classifier.weight, classifier.classifier.bias
    expected = F.linear(classifier.encoder(clips), weight, bias)
    logits = classifier(clips)
    assert logits.shape == (3, 5)
    assert torch.equal(logits, expected)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    classifier = Classifier(encoder(), num_classes=5)
    clips = torch.randn(2, 3, 2, 32, 32)
    classifier.encoder.eval()
    for training in (True, False):
        classifier.dropout.train(training)
        assert torch.equal(classifier(clips), classifier(clips)) is not training


def test_weights_are_named_after_their_part() -> None:
    names = Classifier(encoder(), num_classes=5).state_dict().keys()
    assert {name.split(".")[0] for name in names} == {"encoder", "classifier"}
    assert {"classifier.weight", "classifier.bias"} < names


# --- with a feature bank


def window_of(clips: int, dim: int) -> BankWindow:
    mask = torch.rand(clips, 7) > 0.3
    rows = torch.randn(clips, 7, dim) * mask[..., None]
    return BankWindow(rows.requires_grad_(), mask, torch.zeros(clips, 7))


def reader(dim: int = 6) -> Classifier:
    trunk = encoder()
    operator = fbo_nl.Config(width=16, layers=1).build(trunk.features, dim)
    return Classifier(trunk, num_classes=5, operator=operator)


def test_the_answer_of_the_operator_stands_behind_the_clip_s_own_feature() -> None:
    torch.manual_seed(0)
    classifier = reader().eval()
    clips, window = torch.randn(3, 3, 2, 32, 32), window_of(3, 6)
    assert classifier.operator is not None
    own = classifier.encoder(clips)
    # Each clip asks its own window, here one by one.
    answers = [
        classifier.operator(own[n, None], *(part[n, None] for part in vars(window).values()))
        for n in range(3)
    ]
    both = torch.cat([own, torch.cat(answers)], dim=1)
    torch.testing.assert_close(classifier(clips, window), classifier.classifier(both))
    # At the start, whatever the bank holds, it answers with the clip itself.
    other = window_of(3, 6)
    assert torch.equal(classifier(clips, other), classifier(clips, window))


def test_no_gradient_enters_the_bank_and_the_operator_learns() -> None:
    torch.manual_seed(0)
    classifier, window = reader(), window_of(2, 6)
    classifier(torch.randn(2, 3, 2, 32, 32), window).square().sum().backward()
    assert window.features.grad is None
    assert classifier.operator is not None
    assert all(p.grad is not None for p in classifier.operator.parameters())
    names = {name.split(".")[0] for name in classifier.state_dict()}
    assert names == {"encoder", "operator", "classifier"}


def test_a_window_that_does_not_fit_is_refused() -> None:
    clips = torch.randn(2, 3, 2, 32, 32)
    with pytest.raises(ValueError, match="needs a window of the bank, got no"):
        reader()(clips)
    with pytest.raises(ValueError, match="needs no window of the bank, got a"):
        Classifier(encoder(), num_classes=5)(clips, window_of(2, 6))
    with pytest.raises(ValueError, match="a window of B clips"):
        reader()(clips, window_of(3, 6))
    trunk = encoder()
    operator = fbo_nl.Config(width=4).build(trunk.features, 6)
    with pytest.raises(ValueError, match="features as they are, got 'l2'"):
        Classifier(trunk, num_classes=5, scaling="l2", operator=operator)
