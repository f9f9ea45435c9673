"""The classifier: its start, its sizes, and what it computes."""

import torch
import torch.nn.functional as F

from vidssl.backbones import Encoder, slow
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
