"""A classifier in training: where it starts, what learns, and the two linear protocols."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidssl.backbones import Encoder, slow
from vidssl.recognition.classifier import Classifier, Scaling
from vidssl.recognition.recogniser import Freeze, HeadConfig, Recogniser, RecognitionBatch

PLAIN = HeadConfig(dropout=0.0)


def encoder() -> Encoder:
    torch.manual_seed(0)
    return slow.Config(width=8, depths=(1, 1, 1, 1), frames=2).build()


def batch(classes: int = 5, clips: int = 4, *, is_mixed: bool = False) -> RecognitionBatch:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(clips) % classes
    return RecognitionBatch(
        torch.randn(clips, 3, 2, 32, 32, generator=generator),
        F.one_hot(labels, classes).float(),
        is_mixed=is_mixed,
    )


def values(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tensors.items()}


def stepped(freeze: Freeze, head: HeadConfig = PLAIN) -> tuple[dict[str, Tensor], Recogniser]:
    """A module after two steps, and its state before."""
    module = Recogniser(encoder(), head, num_classes=5, freeze=freeze).train()
    before = values(module.state_dict())
    learning = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        torch.autograd.backward(module(batch()).loss)
        optimizer.step()
    return before, module


def test_the_first_loss_is_that_of_guessing_among_400() -> None:
    module = Recogniser(encoder(), HeadConfig(), num_classes=400).eval()
    with torch.no_grad():
        found = module(batch(classes=400)).loss.item()
    assert found == pytest.approx(5.9915, abs=0.05)


def test_the_share_of_clips_that_are_right_is_told_where_they_have_one_class() -> None:
    module = Recogniser(encoder(), PLAIN, num_classes=5).eval()
    torch.nn.init.zeros_(module.classifier.classifier.weight)
    module.classifier.classifier.bias.data = torch.tensor([0.0, 9.0, 0.0, 0.0, 0.0])
    # Always class 1, of clips that show 0, 1, 2, 3.
    assert module(batch()).scalars["top1"].item() == 0.25
    assert module(batch(is_mixed=True)).scalars == {}


def test_of_several_classes_the_mean_scores_are_told() -> None:
    module = Recogniser(encoder(), HeadConfig(loss="sigmoid"), num_classes=5).eval()
    torch.nn.init.zeros_(module.classifier.classifier.weight)
    found = module(batch())
    assert found.loss.item() == pytest.approx(0.693147)
    assert found.scalars["positive_score"].item() == pytest.approx(0.5)
    module.classifier.classifier.bias.data = torch.tensor([0.0, -50.0, -50.0, -50.0, 0.0])
    scores = module(batch()).scalars
    # Of what is shown class 0 has 0.5, three have 0; of the 16 others 3 of class 0, 4 of class 4.
    assert scores["positive_score"].item() == pytest.approx(0.125)
    assert scores["negative_score"].item() == pytest.approx(7 * 0.5 / 16)


@pytest.mark.parametrize("freeze", ["backbone", "backbone_train_bn"])
def test_a_linear_probe_changes_no_weight_of_the_backbone(freeze: Freeze) -> None:
    before, module = stepped(freeze)
    for name, weight in module.classifier.encoder.named_parameters():
        assert torch.equal(weight, before[f"classifier.encoder.{name}"]), name
        assert weight.grad is None
    assert not torch.equal(
        module.classifier.classifier.weight, before["classifier.classifier.weight"]
    )


def test_the_two_linear_protocols_differ_in_batch_norms_statistics() -> None:
    for freeze, changes in (("backbone", False), ("backbone_train_bn", True)):
        before, module = stepped(freeze)  # type: ignore[arg-type]
        running = [name for name in before if "running" in name]
        assert len(running) > 10
        state = module.state_dict()
        assert all(torch.equal(state[name], before[name]) is not changes for name in running)


def test_a_fixed_backbone_answers_alike_whatever_else_is_in_the_batch() -> None:
    whole = batch()
    half = RecognitionBatch(whole.clips[:2], whole.targets[:2])
    rest = RecognitionBatch(whole.clips[2:], whole.targets[2:])

    def is_alike(freeze: Freeze) -> bool:
        module = Recogniser(encoder(), PLAIN, num_classes=5, freeze=freeze).train()
        parts = (module(half).loss + module(rest).loss) / 2
        return bool(torch.allclose(module(whole).loss, parts, atol=1e-6))

    assert is_alike("backbone")
    assert not is_alike("backbone_train_bn")


def test_without_freezing_everything_learns() -> None:
    before, module = stepped("none")
    weights = dict(module.named_parameters())
    # Two steps, as branches that begin with a scale of 0 learn from the second on.
    assert all(not torch.equal(weight, before[name]) for name, weight in weights.items())


def test_classes_weigh_as_told_and_the_weights_are_no_state() -> None:
    weights = torch.tensor([4.0, 1.0, 1.0, 1.0, 1.0])
    module = Recogniser(encoder(), PLAIN, num_classes=5, weights_K=weights).eval()
    plain = Recogniser(encoder(), PLAIN, num_classes=5).eval()
    plain.load_state_dict(module.state_dict())
    with torch.no_grad():
        one = module(batch(clips=1)).loss
        assert torch.allclose(one, 4 * plain(batch(clips=1)).loss)


def test_features_are_brought_to_one_scale_before_the_layer() -> None:
    features = torch.randn(8, 256, generator=torch.Generator().manual_seed(0)) * 7 + 3
    made = {
        scaling: Classifier(encoder(), num_classes=5, dropout=0.0, scaling=scaling)
        for scaling in get_args(Scaling)
    }
    for classifier in made.values():
        classifier.load_state_dict(made["none"].state_dict(), strict=False)
    layer = made["none"].classifier
    unit = features / features.norm(dim=1, keepdim=True)
    assert torch.allclose(made["l2"].logits_of(features), layer(unit), atol=1e-6)
    batch_normed = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-5).sqrt()
    norm = made["batch"]
    assert torch.allclose(norm.train().logits_of(features), layer(batch_normed), atol=1e-5)
    # In training the running mean has gone a tenth of the way; testing a row needs no batch.
    running = norm.state_dict()["norm.running_mean"]
    assert torch.allclose(running, features.mean(0) / 10, atol=1e-5)
    norm.eval()
    assert torch.allclose(norm.logits_of(features)[3], norm.logits_of(features[3:4])[0], atol=1e-5)
    # Scale and shift are learnt, as CoCLR's are.
    assert {"norm.weight", "norm.bias"} < {name for name, _ in norm.named_parameters()}


@pytest.mark.parametrize("scaling", get_args(Scaling))
def test_places_of_a_map_are_answered_each_like_a_clip(scaling: Scaling) -> None:
    classifier = Classifier(encoder(), num_classes=5, scaling=scaling).eval()
    features = torch.randn(2, 3, 4, 256, generator=torch.Generator().manual_seed(0))
    found = classifier.logits_of(features)
    assert found.shape == (2, 3, 4, 5)
    assert torch.allclose(found[1, 2, 3], classifier.logits_of(features[1, 2, 3:4])[0], atol=1e-6)
