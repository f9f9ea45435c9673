"""Alarms: what is told of a collapse, once, and that a healthy training is left alone."""

import pytest
import torch

from vidssl.nn.health import between
from vidssl.train.alarms import PATIENCE, Alarms

HEALTHY = {
    "feature_std": 0.9,
    "effective_rank": 20.0,
    "positive_similarity": 0.8,
    "top1": 0.9,
    "grad_norm": 1.0,
}


def names(alarms: Alarms, scalars: dict[str, float], steps: int) -> list[str]:
    return [alarm.name for _ in range(steps) for alarm in alarms.note(scalars)]


def test_a_healthy_training_raises_none() -> None:
    assert names(Alarms("nothing"), HEALTHY, 20) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"feature_std": 0.05}, "collapse"),
        ({"effective_rank": 1.2}, "line"),
        ({"positive_similarity": 0.995, "top1": 1.0}, "too easy"),
        ({"grad_norm": 0.0}, "no gradient"),
    ],
)
def test_each_sign_is_told_once_when_it_has_lasted(change: dict[str, float], name: str) -> None:
    alarms = Alarms("a missing predictor")
    sick = {**HEALTHY, **change}
    assert names(alarms, sick, PATIENCE - 1) == []
    assert names(alarms, sick, 10) == [name]
    assert names(alarms, HEALTHY, 1) == []
    assert names(alarms, sick, PATIENCE) == [name]


def test_a_sign_that_comes_and_goes_is_not_told() -> None:
    alarms = Alarms("")
    sick = {**HEALTHY, "feature_std": 0.0}
    assert [a for _ in range(5) for s in (sick, sick, HEALTHY) for a in alarms.note(s)] == []


def test_steps_that_log_something_else_neither_make_nor_break_a_sign() -> None:
    alarms = Alarms("")
    sick, looked_at = {**HEALTHY, "feature_std": 0.0}, {"grad_norm": 1.0, "knn_video": 0.5}
    told = [
        alarm.name for _ in range(PATIENCE) for s in (looked_at, sick) for alarm in alarms.note(s)
    ]
    assert told == ["collapse"]
    assert names(alarms, looked_at, 10) == []


def test_constant_features_are_told_of_with_the_method_s_own_weakness() -> None:
    same = torch.ones(8, 4)
    scalars = {name: float(value) for name, value in between(same, same).items()}
    alarms = Alarms("a missing predictor")
    told = [alarm for _ in range(PATIENCE) for alarm in alarms.note(scalars)]
    assert [alarm.name for alarm in told] == ["collapse"]
    assert "deviation is 0.000 of 1" in told[0].words
    assert "Likely: a missing predictor" in told[0].words


def test_scalars_that_a_method_does_not_log_raise_nothing() -> None:
    assert names(Alarms(""), {"loss": 1.0}, 10) == []
