"""Parts of a batch, one after the other: the same as all at once, for less memory."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidssl.backbones import Encoder
from vidssl.methods import Batch
from vidssl.nn.recompute import in_parts
from vidssl.section import choose

NARROW = {"width": 4, "depths": [1, 1, 1, 1], "frames": 4}


class Marked(nn.Module):
    """Adds to each clip the number of the pass that it went through."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts, self.passes = parts, 0

    @in_parts
    def maps(self, clips: Tensor) -> Tensor:
        self.passes += 1
        return clips + 100.0 * self.passes


@pytest.mark.parametrize(
    ("clips", "parts", "expected"),
    [
        (4, 1, [100, 101, 102, 103]),
        (4, 2, [100, 201, 102, 203]),
        (5, 2, [100, 201, 102, 203, 104]),
        (5, 3, [100, 201, 302, 103, 204]),
        (2, 3, [100, 201]),  # no more parts than clips
    ],
)
def test_part_p_of_n_holds_every_nth_clip_from_p(
    clips: int, parts: int, expected: list[float]
) -> None:
    marked = Marked(parts)
    with torch.no_grad():
        assert marked.maps(torch.arange(clips).float()).tolist() == expected
        marked.eval()
        marked.passes = 0
        assert marked.maps(torch.arange(clips).float()).tolist() == [
            100.0 + n for n in range(clips)
        ]


def both(name: str, parts: int, **options: Any) -> tuple[Encoder, Tensor, dict[str, Tensor]]:
    """Return an encoder, its pooled features of six clips, and the gradients of their squares."""
    torch.manual_seed(0)
    encoder: Encoder = choose("vidssl.backbones", {"name": name, **NARROW, **options}).build()
    encoder.double().parts = parts
    clips = torch.randn(6, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    features = encoder(clips)
    (features * torch.arange(features.numel()).view_as(features)).square().mean().backward()
    return (
        encoder,
        features,
        {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None},
    )


@pytest.mark.parametrize("name", ["slow", "slowfast", "r3d"])
@pytest.mark.parametrize("again", [False, True])
def test_features_and_gradients_are_those_of_the_whole_batch(name: str, again: bool) -> None:
    options: dict[str, Any] = {"norm": "group", "activation_checkpointing": again}
    if name == "slowfast":
        options["width"] = 8
    _, whole, gradients = both(name, 1, **options)
    _, parts, in_parts_too = both(name, 3, **options)
    torch.testing.assert_close(parts, whole)
    assert gradients.keys() == in_parts_too.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(in_parts_too[key], gradient, msg=key)


def test_batch_norm_counts_each_part_once() -> None:
    whole, _, _ = both("slow", 1)
    parts, _, _ = both("slow", 3)
    counts = [
        {int(v) for k, v in net.state_dict().items() if k.endswith("num_batches_tracked")}
        for net in (whole, parts)
    ]
    assert counts == [{1}, {3}]


def test_less_is_kept_for_the_way_back() -> None:
    kept = []
    for parts in (1, 3):
        torch.manual_seed(0)
        encoder: Encoder = choose("vidssl.backbones", {"name": "slow", **NARROW}).build()
        encoder.parts = parts
        sizes: list[int] = []

        def note(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            encoder(torch.randn(6, 3, 4, 32, 32)).sum()
        kept.append(sum(sizes))
    assert kept[1] < 0.2 * kept[0]


METHODS: dict[str, tuple[dict[str, Any], int]] = {
    "moco": ({"queue": 16, "hidden": 8, "dim": 4}, 2),
    "mocov3": ({"hidden": 8, "dim": 4}, 2),
    "simclr": ({"hidden": 8, "dim": 4}, 2),
    "cvrl": ({"hidden": 8, "dim": 4}, 2),
    "byol": ({"hidden": 8, "dim": 4}, 2),
    "swav": ({"hidden": 8, "dim": 4, "prototypes": 6}, 2),
    "const_cl": ({"hidden": 8, "dim": 4}, 2),
    "teg": ({"hidden": 8, "dim": 4}, 2),
    "ctp": ({"hidden": 8}, 1),
}


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute in double precision even where losses ask for single."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_the_loss_and_the_negatives_of_the_whole_batch(name: str) -> None:
    found = []
    for parts in (1, 2):
        torch.manual_seed(0)
        about = {"name": "r3d", **NARROW, "frames": 8, "norm": "group", "form": "detection"}
        encoder = choose("vidssl.backbones", {**about, "local_branch": name == "const_cl"}).build()
        options, views = METHODS[name]
        config = choose("vidssl.methods", {"name": name, **options})
        method = config.build(encoder)
        for net in method.modules():
            if isinstance(net, Encoder):
                net.parts = parts
        torch.manual_seed(1)
        clips = [torch.randn(4, 3, 8, 48, 48) for _ in range(views)]
        times = [torch.arange(8.0) / 10 * (2 - view) + torch.zeros(4, 1) for view in range(views)]
        batch = Batch(tuple(clips), seeds=(1, 2, 3, 4), times_s=tuple(times))
        output = method.train()(config.prepare(batch))
        output.loss.backward()
        gradients = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
        found.append((output.loss.detach(), gradients))
    torch.testing.assert_close(found[1][0], found[0][0])
    assert found[0][1].keys() == found[1][1].keys()
    for key, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][key], gradient, atol=1e-9, rtol=1e-6, msg=key)


RANKS = """
import json

import torch
from torch.nn.parallel import DistributedDataParallel

from vidssl.methods import Batch
from vidssl.nn.distributed import joined, rank
from vidssl.section import choose

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double


def step(share, parts, wrap):
    torch.manual_seed(0)
    encoder = choose(
        "vidssl.backbones", {"name": "slow", "width": 4, "depths": [1, 1, 1, 1], "frames": 4}
    ).build()
    encoder.parts = parts
    method = choose("vidssl.methods", {"name": "simclr", "hidden": 8, "dim": 4}).build(encoder)
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(4, 3, 4, 32, 32, generator=generator) for _ in range(2)]
    wrapped = wrap(method)
    output = wrapped(Batch(tuple(view[share] for view in views)))
    output.loss.backward()
    grads = {n: p.grad.flatten().tolist() for n, p in method.named_parameters()}
    return output.loss.detach(), grads


alone, wanted = step(slice(None), 2, lambda method: method)
with joined():
    wrap = lambda method: DistributedDataParallel(method, broadcast_buffers=False)
    loss, grads = step(slice(rank(), None, 2), 1, wrap)
    torch.distributed.all_reduce(loss)
    print(json.dumps([loss.item() / 2, alone.item(), grads, wanted]))
"""


def test_two_parts_are_what_two_processes_are_batch_norm_included(
    in_two_processes: Callable[..., list[str]],
) -> None:
    for said in in_two_processes(RANKS):
        loss, alone, grads, wanted = json.loads(said)
        assert loss == pytest.approx(alone, rel=1e-9)
        assert grads.keys() == wanted.keys()
        for name, values in wanted.items():
            assert grads[name] == pytest.approx(values, rel=1e-6, abs=1e-9), name
