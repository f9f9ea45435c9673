"""Finding the network among what trainings save, and the account of what fits."""

import pytest
import torch
from torch import Tensor

from vidssl.errors import CheckpointError
from vidssl.published.match import match, require
from vidssl.published.state import find_state

ONE = torch.ones(1)


def named(*names: str) -> dict[str, Tensor]:
    return {name: ONE for name in names}


@pytest.mark.parametrize(
    ("names", "ignored"),
    [
        (["conv1.weight", "fc.bias"], {}),
        (["model_state.conv1.weight", "model_state.fc.bias"], {}),
        (["state_dict.module.conv1.weight", "state_dict.module.fc.bias"], {}),
        (["state_dict.model.conv1.weight", "state_dict.model.fc.bias"], {}),
        (["blobs.conv1.weight", "blobs.fc.bias", "lr"], {"beside the network": 1}),
        (
            [
                *(
                    "state_dict.module.encoder_q.conv1.weight",
                    "state_dict.module.encoder_q.fc.bias",
                ),
                *("state_dict.module.encoder_k.conv1.weight", "state_dict.module.queue"),
                *("state_dict.module.queue_ptr", "optimizer.state.0.momentum_buffer"),
            ],
            {"beside the network": 1, "momentum encoder": 1, "queue": 2},
        ),
        (
            [
                *(
                    "state_dict.module.base_encoder.conv1.weight",
                    "state_dict.module.base_encoder.fc.bias",
                ),
                *("state_dict.module.momentum_encoder.conv1.weight",),
                *("state_dict.module.predictor.0.weight",),
            ],
            {"momentum encoder": 1, "heads of pretraining": 1},
        ),
        (["backbone.conv1.weight", "backbone.fc.bias", "head.w"], {"heads of pretraining": 1}),
    ],
)
def test_the_network_is_found_and_the_rest_counted(
    names: list[str], ignored: dict[str, int]
) -> None:
    found = find_state(named(*names))
    assert found.tensors.keys() == {"conv1.weight", "fc.bias"}
    assert found.ignored == ignored


@pytest.mark.parametrize(
    "prefixes",
    [
        ("encoder_q", "encoder_k"),
        ("base_encoder", "momentum_encoder"),
        ("backbone", "backbone_hist"),
    ],
)
def test_the_momentum_encoder_is_found_where_it_is_asked_for(prefixes: tuple[str, str]) -> None:
    query, key = prefixes
    both = named(f"{query}.w") | {f"{key}.w": ONE * 2}
    assert find_state(both).tensors["w"].item() == 1
    found = find_state(both, momentum=True)
    assert found.tensors["w"].item() == 2
    assert found.ignored == {"trained encoder": 1}
    with pytest.raises(CheckpointError, match="holds no momentum encoder"):
        find_state(named("w"), momentum=True)


def test_every_tensor_is_accounted_for() -> None:
    here = {
        "same": torch.zeros(2),
        "axis": torch.zeros(2, 3, 1, 7, 7),
        "shape": torch.zeros(3),
        "gone": torch.zeros(4),
        "norm.num_batches_tracked": torch.tensor(5),
    }
    there = {
        "same": torch.ones(2).double(),
        "axis": torch.ones(2, 3, 7, 7),
        "shape": torch.ones(4),
        "more": torch.ones(1),
        "other.num_batches_tracked": torch.tensor(5),
    }
    found = match(there, here)
    assert found.matched == ("same", "axis")
    assert found.missing == ("gone",)
    assert found.unexpected == ("more",)
    assert found.reshaped == ("axis: (2, 3, 7, 7) -> (2, 3, 1, 7, 7)",)
    assert found.wrong_shape == ("shape: (4,) -> (3,)",)
    assert found.unfilled == ("gone", "shape")
    # 2 of the 4 that count; the counter starts at 0.
    assert found.share == 0.5
    assert found.fitted["norm.num_batches_tracked"].item() == 0
    assert found.fitted["same"].dtype == torch.float32
    require(found, 0.5, "it")
    message = r"2 of the 4 tensors of it are there \(50.0%\); expected at least 51%"
    with pytest.raises(CheckpointError, match=message):
        require(found, 0.51, "it")


def test_what_is_left_over_counts_as_well() -> None:
    # A deeper network has all tensors of a shallower one.
    here = {f"{n}": ONE for n in range(9)}
    found = match({f"{n}": ONE for n in range(12)}, here)
    assert (found.share, found.used) == (1, 0.75)
    require(found, 0.75, "it")
    message = (
        r"9 of the 9 tensors of it are there \(100.0%\), but only 75.0% of the file's have a "
        r"place in it; expected at least 95%\n  unexpected \(3\): 9, 10, 11"
    )
    with pytest.raises(CheckpointError, match=message):
        require(found, 0.95, "it")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.int64])
def test_numbers_without_their_scale_are_no_weights(dtype: torch.dtype) -> None:
    found = match({"w": torch.ones(3).to(dtype)}, {"w": torch.ones(3)})
    assert found.wrong_shape == (f"w: {str(dtype).removeprefix('torch.')} -> float32",)
    assert match({"w": torch.ones(3).half()}, {"w": torch.ones(3)}).matched == ("w",)


def test_a_tensor_of_another_shape_refuses_unless_a_share_is_stated() -> None:
    here = {f"{n}": ONE for n in range(50)}
    found = match(here | {"7": torch.ones(2)}, here)
    require(found, 0.95, "it")
    with pytest.raises(CheckpointError, match=r"49 of the 50 .* are the mark of another network"):
        require(found, None, "it")


def test_a_transposed_matrix_is_not_a_reshape() -> None:
    assert match({"w": torch.ones(2, 3)}, {"w": torch.ones(3, 2)}).wrong_shape
    assert match({"w": torch.ones(1, 3)}, {"w": torch.ones(3)}).reshaped
