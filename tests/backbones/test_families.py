"""What every family of backbones promises, whichever files there are."""

import importlib
import json
import pkgutil
from typing import Any

import pytest
import torch

import vidssl.backbones
from vidssl.backbones import BackboneConfig, r3d
from vidssl.backbones.slow import Config as Slow
from vidssl.backbones.slowfast import Config as SlowFast
from vidssl.nn.changes import difference

FAMILIES = [
    name
    for _, name, _ in pkgutil.iter_modules(vidssl.backbones.__path__)
    if not name.startswith("_")
]


def test_the_families_are_found() -> None:
    assert {"slow", "slowfast"} <= set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_named_after_its_file_and_keeps_its_promises(family: str) -> None:
    config = importlib.import_module(f"vidssl.backbones.{family}").Config()
    assert isinstance(config, BackboneConfig)
    assert config.name == family
    assert json.loads(json.dumps(config.geometry_free())) == config.geometry_free()
    with torch.device("meta"):
        encoder = config.build()
        clips = torch.empty(1, 3, config.frames, 224, 224)
    map_ = encoder.maps(clips)
    assert map_.shape[:2] == (1, encoder.features)
    assert map_.shape[2] == config.frames // encoder.temporal_stride
    assert map_.shape[3:] == (224 // encoder.spatial_stride,) * 2


@pytest.mark.parametrize(
    "config",
    [
        Slow(width=8, depths=(1, 1, 1, 1), frames=2),
        Slow(width=8, depths=(1, 1, 1, 1), frames=2, block="basic"),
        SlowFast(width=8, depths=(1, 1, 1, 1), frames=8),
        SlowFast(width=8, depths=(1, 1, 1, 1), frames=8, block="basic", form="detection"),
    ],
)
def test_every_parameter_is_used(config: BackboneConfig) -> None:
    encoder = config.build()
    encoder(torch.rand(2, 3, config.frames, 64, 64)).square().sum().backward()
    assert [name for name, value in encoder.named_parameters() if value.grad is None] == []


def test_what_is_seen_is_written_where_it_is_not_frames() -> None:
    assert "sees" not in Slow().model_dump()  # as in runs and banks of before
    assert Slow(sees="changes").model_dump(mode="json")["sees"] == "changes"
    assert Slow.model_validate(Slow(sees="changes").model_dump()) == Slow(sees="changes")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_sees_changes_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def noted(clips: torch.Tensor) -> torch.Tensor:
        seen.append(clips)
        return difference(clips)

    monkeypatch.setattr(vidssl.backbones, "difference", noted)
    config = importlib.import_module(f"vidssl.backbones.{family}").Config(sees="changes")
    with torch.device("meta"):
        encoder = config.build()
        clips = torch.empty(1, 3, config.frames, 224, 224)
    for encode in (encoder.maps, encoder):
        encode(clips)
        assert len(seen) == 1
        assert seen.pop() is clips


def test_who_sees_changes_sees_no_colours() -> None:
    encoder = Slow(width=8, depths=(1, 1, 1, 1), frames=4, sees="changes").build().eval()
    still = torch.rand(2, 3, 1, 1, 1).expand(2, 3, 4, 32, 32)
    with torch.inference_mode():
        red, blue, noise = encoder(torch.cat([still, torch.rand(1, 3, 4, 32, 32)]))
    assert torch.allclose(red, blue, atol=1e-6)
    assert not torch.allclose(red, noise, atol=1e-3)


def test_changes_are_those_of_the_clip_as_it_comes_in_every_branch_and_part() -> None:
    options = {"width": 8, "depths": (1, 1, 1, 1), "frames": 4, "local_branch": True}
    frames = r3d.Config.model_validate(options).network()
    changes = r3d.Config.model_validate({**options, "sees": "changes"}).build()
    changes.load_state_dict(frames.state_dict())
    assert isinstance(changes, type(frames))
    changes.parts = frames.parts = 2
    clips = torch.rand(4, 3, 4, 32, 32)
    expected, found = frames.branches(difference(clips)), changes.branches(clips)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert torch.equal(frames.maps(difference(clips)), changes.maps(clips))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Slow(), Slow(frames=4, stride=16, form="detection"), True),
        (Slow(), Slow(temporal_blocks=(3, 4, 6, 3)), True),
        (Slow(), Slow(temporal_blocks=(3, 4, 5, 3)), False),
        (Slow(), Slow(width=32), False),
        (Slow(depths=(2, 2, 2, 2)), Slow(depths=(2, 2, 2, 2), block="basic"), False),
        (SlowFast(), SlowFast(frames=64, alpha=8, stride=1, form="detection"), True),
        (SlowFast(), SlowFast(fusion_kernel=5), False),
        (SlowFast(), SlowFast(beta_inverse=16), False),
    ],
)
def test_equal_dictionaries_mean_exchangeable_weights(
    one: BackboneConfig, other: BackboneConfig, same: bool
) -> None:
    def shapes(config: BackboneConfig) -> dict[str, Any]:
        with torch.device("meta"):
            return {name: value.shape for name, value in config.build().state_dict().items()}

    assert (one.geometry_free() == other.geometry_free()) is same
    assert (shapes(one) == shapes(other)) is same
