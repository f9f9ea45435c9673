"""The doctor's checks: what is well passes, and each complaint says how to mend it."""

import json
import resource
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from vidssl.jobs import doctor
from vidssl.jobs._limits import Limits, limits, usable_cores
from vidssl.jobs.doctor import GB, Check
from vidssl.video import backends

Told = list[tuple[int, int]]


@pytest.fixture(scope="module")
def told_of_all() -> tuple[dict[str, Check], Told]:
    told: Told = []
    found = doctor.run(lambda what, done, total: told.append((done, total)))
    return {check.name: check for check in found}, told


@pytest.fixture(scope="module")
def checks(told_of_all: tuple[dict[str, Check], Told]) -> dict[str, Check]:
    return told_of_all[0]


def test_nothing_fails_where_the_tests_run(checks: dict[str, Check]) -> None:
    assert not [check for check in checks.values() if check.status == "fail"]


def test_every_area_is_looked_at(checks: dict[str, Check]) -> None:
    expected = (
        "Python vidssl torch numpy pyarrow processes PyAV torchcodec decord cores memory disk"
    )
    assert set(expected.split()) <= checks.keys()
    assert any(name.startswith("GPU") for name in checks)
    assert np.__version__ == checks["numpy"].finding


def test_each_complaint_has_a_mend_and_fits_a_line(checks: dict[str, Check]) -> None:
    for check in checks.values():
        assert bool(check.mend) == (check.status != "ok"), check
        assert "\n" not in check.finding + check.mend
        assert check.finding


def test_checks_are_fit_for_json(checks: dict[str, Check]) -> None:
    listed = [asdict(check) for check in checks.values()]
    assert json.loads(json.dumps(listed)) == listed


def test_progress_runs_to_the_end(told_of_all: tuple[dict[str, Check], Told]) -> None:
    assert told_of_all[1] == [(n, 5) for n in range(6)]


@pytest.mark.parametrize(
    ("requirement", "status"),
    [("numpy>=2", "ok"), ("numpy", "ok"), ("numpy>=99.1", "fail"), ("no-such-package>=1", "fail")],
)
def test_a_package_is_there_and_new_enough(requirement: str, status: str) -> None:
    check = doctor.package(requirement)
    assert check.status == status
    if status == "fail":
        assert check.mend == f"pip install --upgrade '{requirement}'"


def test_an_old_package_is_told_of_with_both_versions() -> None:
    check = doctor.package("numpy>=99.1")
    assert check.finding == f"{np.__version__}, expected at least 99.1"


@pytest.mark.parametrize(
    ("older", "newer"), [("2.9", "2.10"), ("0.1.5", "0.1.5.1"), ("2", "2.0.1"), ("1.26.4", "2")]
)
def test_versions_are_compared_as_numbers(older: str, newer: str) -> None:
    assert doctor._numbers(older) < doctor._numbers(newer)
    assert doctor._numbers("2.0") == doctor._numbers("2") == doctor._numbers("2.0+cu130")


def test_a_machine_without_pyav_fails() -> None:
    check = doctor._pyav(backends.Backend(None, "not installed", installed=False))
    assert (check.status, check.finding) == ("fail", "not installed")
    assert "pip install" in check.mend


def test_optional_decoders_never_fail() -> None:
    absent = doctor._optional("torchcodec", backends.Backend(None, "x", installed=False))
    assert (absent.status, absent.finding) == ("ok", "not installed (optional)")
    broken = doctor._optional("decord", backends.Backend(None, "crashed (signal 11)"))
    assert broken.status == "warn"
    assert "crashed (signal 11)" in broken.finding
    assert "PyAV decodes" in broken.mend


def test_torchcodec_is_mended_with_ffmpeg_or_that_of_pyav(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "ffmpeg_libraries", lambda: tmp_path)
    asked: list[str] = []

    def load(module: str, timeout_s: float, environment: dict[str, str]) -> backends.Backend:
        asked.append(environment["LD_LIBRARY_PATH"].partition(":")[0])
        return backends.Backend("0.17.0")

    monkeypatch.setattr(backends, "load", load)
    check = doctor._torchcodec(backends.Backend(None, "finds no FFmpeg libraries"))
    assert (check.status, check.finding) == ("warn", "does not load: finds no FFmpeg libraries")
    assert "apt-get install ffmpeg" in check.mend
    assert f"LD_LIBRARY_PATH={tmp_path}" in check.mend
    assert asked == [str(tmp_path)]
    # What does not help is not advised.
    monkeypatch.setattr(backends, "load", lambda *_: backends.Backend(None, "crashed"))
    check = doctor._torchcodec(backends.Backend(None, "crashed"))
    assert "LD_LIBRARY_PATH" not in check.mend


def test_the_decoder_that_auto_means_is_named(checks: dict[str, Check]) -> None:
    assert checks["decoder: auto"].finding.startswith("PyAV")


def test_a_quota_below_the_cores_limits_the_workers() -> None:
    assert doctor.cores(64, 64, None) == Check("cores", "ok", "64 of 64 usable")
    assert doctor.cores(64, 8, 8.0).status == "ok"
    check = doctor.cores(64, 64, 4.5)
    assert (check.status, check.finding) == (
        "warn",
        "64 of 64 usable, but the time of 4.5 is granted",
    )
    assert check.mend == "set loader.workers to at most 4, and OMP_NUM_THREADS=4"


def test_memory_is_what_is_granted_of_it() -> None:
    assert doctor.memory(16 * GB, None) == Check("memory", "ok", "16.0 GiB")
    # Version 1 of control groups can grant more than there is.
    assert doctor.memory(16 * GB, 64 * GB) == Check("memory", "ok", "16.0 GiB")
    check = doctor.memory(16 * GB, 2 * GB)
    assert check.status == "warn"
    assert check.finding == "16.0 GiB, of which 2.0 GiB are granted"


def test_little_shared_memory_is_what_a_container_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor.shared_memory(tmp_path / "absent").status == "ok"
    monkeypatch.setattr(doctor, "LEAST_SHARED_GB", 1e9)
    check = doctor.shared_memory(tmp_path)
    assert check.status == "warn"
    assert "--shm-size=8g" in check.mend


def test_a_full_disk_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.disk(tmp_path).finding.endswith(f"GiB free in {tmp_path}")
    monkeypatch.setattr(doctor, "LEAST_DISK_GB", 1e9)
    check = doctor.disk(tmp_path)
    assert check.status == "warn"
    assert not list(tmp_path.iterdir())


def test_few_open_files_are_told_of() -> None:
    assert doctor.open_files(65536).status == "ok"
    assert doctor.open_files(resource.RLIM_INFINITY) == Check("open files", "ok", "unlimited")
    assert doctor.open_files(256) == Check("open files", "warn", "at most 256", "ulimit -n 1024")


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_the_tightest_limit_of_all_groups_around_counts(tmp_path: Path) -> None:
    mount, membership = tmp_path / "cgroup", tmp_path / "self"
    membership.write_text("0::/batch/job\n")
    group(mount / "batch", cpu__max="150000 100000", memory__max=str(8 * GB))
    group(mount / "batch" / "job", cpu__max="max 100000", memory__max=str(4 * GB))
    assert limits(mount, membership) == Limits(1.5, 4 * GB)


def test_in_a_container_the_root_of_the_mount_is_its_group(tmp_path: Path) -> None:
    mount, membership = tmp_path / "cgroup", tmp_path / "self"
    membership.write_text("0::/not/visible/from/inside\n")
    group(mount, cpu__max="200000 100000", memory__max="max")
    assert limits(mount, membership) == Limits(2.0, None)


def test_the_first_version_of_control_groups_is_read_too(tmp_path: Path) -> None:
    mount, membership = tmp_path / "cgroup", tmp_path / "self"
    membership.write_text("4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/\n")
    group(mount / "cpu,cpuacct" / "docker" / "x", cpu__cfs_quota_us="50000")
    group(mount / "cpu,cpuacct" / "docker" / "x", cpu__cfs_period_us="100000")
    group(mount / "cpu,cpuacct", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    group(mount / "memory" / "docker" / "x", memory__limit_in_bytes="9223372036854771712")
    group(mount / "memory", memory__limit_in_bytes=str(3 * GB))
    assert limits(mount, membership) == Limits(0.5, 3 * GB)


def test_a_system_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    assert limits(tmp_path / "none", tmp_path / "self") == Limits(None, None)


def test_there_is_a_core_to_run_on() -> None:
    assert usable_cores() >= 1
