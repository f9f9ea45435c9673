"""Weights of a detector of people, as a person has them in a file."""

from pathlib import Path

import pytest
import torch
from torchvision.models import get_model


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that finds something or other: scores of chance for three classes."""
    torch.manual_seed(0)
    model = get_model(
        "fasterrcnn_mobilenet_v3_large_320_fpn", weights=None, weights_backbone=None, num_classes=3
    )
    for key, value in model.state_dict().items():
        if "cls_score" in key or "bbox_pred" in key:
            value.copy_(torch.randn(value.shape) * 0.02)
    path = tmp_path_factory.mktemp("weights") / "detector.pth"
    torch.save(model.state_dict(), path)
    return path
