"""The folder of a run: whose it is, and what is left when a command was refused."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from vidssl.errors import Interrupted, OutputError
from vidssl.train.folder import RunFolder, Terms, claim, is_in_use, read_events, read_log

IDENTITY = {"command": "pretrain", "recipe": {"optim": {"lr": 0.1, "steps": 5}, "seed": 0}}


def other(lr: float) -> dict[str, object]:
    return {**IDENTITY, "recipe": {"optim": {"lr": lr, "steps": 5}, "seed": 0}}


def open_folder(path: Path, identity: Mapping[str, object] = IDENTITY) -> RunFolder:
    return RunFolder(path, identity, "seed: 0\n")


def fail(path: Path, failure: BaseException, *, keep: bool = False, index: bool = False) -> None:
    """Let a command fail in the folder, before or after it began its work."""
    with open_folder(path) as folder:
        folder.event("start", step=0)
        if index:
            (path / "index.parquet").write_text("rows")
        if keep:
            folder.keep()
        raise failure


def test_a_run_does_not_write_down_the_secrets_of_its_videos(tmp_path: Path) -> None:
    mine = {"videos": "https://me:s3cret@host/l.txt", "data": {"videos": "http://h/l?sig=s3cret"}}
    run = tmp_path / "run"
    with open_folder(run, mine) as folder:
        folder.keep()
    text = (run / "run.json").read_text()
    assert "s3cret" not in text
    assert "https://...@host/l.txt" in text
    claim(run, mine)  # what is hidden is compared all the same
    with pytest.raises(OutputError, match="videos_sha256: ") as caught:
        claim(run, {**mine, "videos": "https://me:0ther@host/l.txt"})
    assert "0ther" not in str(caught.value)
    (run / "run.json").write_text(json.dumps(mine))  # as an earlier version wrote it
    claim(run, mine)
    with open_folder(run, mine):
        assert (run / "run.json").read_text() == text


def test_a_run_says_what_it_is_and_may_be_gone_on_with(tmp_path: Path) -> None:
    for _ in range(2):
        with open_folder(tmp_path / "deep" / "run") as folder:
            folder.keep()
            folder.log({"step": 0, "loss": 1.0})
            folder.event("start", step=0)
    written = json.loads((tmp_path / "deep/run/run.json").read_text())
    assert written == {"format": 1, **IDENTITY}
    assert (tmp_path / "deep/run/recipe.yaml").read_text() == "seed: 0\n"
    assert read_log(tmp_path / "deep/run") == [{"step": 0, "loss": 1.0}] * 2
    events = read_events(tmp_path / "deep/run")
    assert [(e["event"], e.get("step")) for e in events] == [("start", 0), ("finished", None)] * 2
    assert events[0]["time"] <= events[1]["time"]
    assert not (tmp_path / "deep/run/.lock").exists()


def test_a_tuple_in_the_identity_is_the_list_that_json_makes_of_it(tmp_path: Path) -> None:
    for _ in range(2):
        with open_folder(tmp_path / "run", {"area": (0.2, 0.7)}) as folder:
            folder.keep()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["area"] == [0.2, 0.7]


def test_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    with open_folder(tmp_path / "run") as folder:
        folder.keep()
    with pytest.raises(OutputError) as caught:
        open_folder(tmp_path / "run", other(0.2))
    assert str(caught.value) == (
        f"{tmp_path / 'run'}: belongs to another run; choose another folder, or its values:\n"
        "  recipe.optim.lr: 0.1 there, 0.2 asked"
    )
    with pytest.raises(OutputError, match=r"recipe\.seed: 0 there, null asked"):
        claim(tmp_path / "run", {**IDENTITY, "recipe": {"optim": {"lr": 0.1, "steps": 5}}})


def test_what_is_harmless_to_change_is_accepted_and_told(tmp_path: Path) -> None:
    terms = Terms(harmless=("recipe.optim", "recipe.se"))
    with open_folder(tmp_path / "run") as folder:
        folder.keep()
    with RunFolder(tmp_path / "run", other(0.2), "", terms):
        pass
    event = read_events(tmp_path / "run")[-1]
    assert event["event"] == "recipe changed"
    assert event["changes"] == ["recipe.optim.lr: 0.1 there, 0.2 asked"]
    assert claim(tmp_path / "run", other(0.2), terms) == []  # it is the run's own from now on
    harmful = {**IDENTITY, "recipe": {"optim": {"lr": 0.3, "steps": 5}, "seed": 7}}
    with pytest.raises(OutputError) as caught:
        claim(tmp_path / "run", harmful, terms)
    assert str(caught.value).splitlines()[1:] == ["  recipe.seed: 0 there, 7 asked"]


def test_what_an_earlier_version_did_not_write_down_is_taken_as_it_was_then(
    tmp_path: Path,
) -> None:
    with open_folder(tmp_path / "run", {"command": "pretrain"}) as folder:
        folder.keep()
    newer = {"command": "pretrain", "averaged": False}
    with pytest.raises(OutputError, match="averaged: null there, false asked"):
        claim(tmp_path / "run", newer)
    terms = Terms(renewed=lambda there: {"averaged": False, **there})
    assert claim(tmp_path / "run", newer, terms) == []
    with pytest.raises(OutputError, match="averaged: false there, true asked"):
        claim(tmp_path / "run", {**newer, "averaged": True}, terms)


def test_what_belongs_to_others_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"mine: holds other files and no run\.json"):
        open_folder(tmp_path / "mine")
    with pytest.raises(OutputError, match=r"file: is a file; expected a folder"):
        open_folder(tmp_path / "file")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_refused_command_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(KeyError, match="wrong input"):
            fail(tmp_path / name, KeyError("wrong input"))
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_refusal_takes_nothing_from_a_run_that_was_there(tmp_path: Path) -> None:
    with open_folder(tmp_path / "run") as folder:
        folder.keep()
        folder.log({"step": 0})
        folder.event("start", step=0)
    before = sorted(p.name for p in (tmp_path / "run").iterdir())
    with pytest.raises(KeyError, match="wrong input"):
        fail(tmp_path / "run", KeyError("wrong input"))
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == before
    assert [event["event"] for event in read_events(tmp_path / "run")] == [
        *("start", "finished"),
        "start",  # of the refused one, which never came to its work
    ]


@pytest.mark.parametrize("stopped", [Interrupted("indexed 5 of 9"), KeyError("a wrong recipe")])
def test_an_index_that_was_begun_is_used_by_the_next_run(
    stopped: BaseException, tmp_path: Path
) -> None:
    # It holds in any run, as each of its rows is compared with its file.
    with pytest.raises(type(stopped)):
        fail(tmp_path / "run", stopped, index=True)
    with open_folder(tmp_path / "run", other(0.2)) as folder:
        assert (folder.path / "index.parquet").read_text() == "rows"
        folder.keep()


def test_work_begun_is_kept_whatever_happens(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="a bug"):
        fail(tmp_path / "run", KeyError("a bug"), keep=True)
    assert (tmp_path / "run" / "run.json").is_file()


@pytest.mark.parametrize(
    ("failure", "end"),
    [
        (Interrupted("stopped at step 5 of 9"), "interrupted"),
        (KeyboardInterrupt("Ctrl-C"), "interrupted"),
        (OutputError("no space left"), "failed"),
        (KeyError("a bug"), "failed"),
    ],
)
def test_how_the_work_ended_is_written_down(
    failure: BaseException, end: str, tmp_path: Path
) -> None:
    with pytest.raises(type(failure)):
        fail(tmp_path / "run", failure, keep=True)
    last = read_events(tmp_path / "run")[-1]
    assert (last["event"], last["words"]) == (end, str(failure))


def test_a_folder_is_in_use_while_it_is_open(tmp_path: Path) -> None:
    assert not is_in_use(tmp_path / "run")
    with open_folder(tmp_path / "run") as folder:
        folder.keep()
        assert is_in_use(tmp_path / "run")
        assert is_in_use(tmp_path / "run")  # to look takes nothing away
    assert not is_in_use(tmp_path / "run")
    (tmp_path / "run" / ".lock").touch()  # as a killed process leaves it
    assert not is_in_use(tmp_path / "run")


class Noting:
    def __init__(self) -> None:
        self.told: list[object] = []

    def log(self, entry: Mapping[str, object]) -> None:
        self.told.append(entry["step"])

    def event(self, event: Mapping[str, object]) -> None:
        self.told.append(event["event"])

    def rewind(self, step: int) -> None:
        self.told.append(f"back to {step}")

    def close(self) -> None:
        self.told.append("closed")


def test_who_follows_is_told_all_that_the_folder_is_told(tmp_path: Path) -> None:
    noting = Noting()
    with open_folder(tmp_path / "run") as folder:
        folder.follow(noting)
        folder.event("start", step=3)
        folder.rewind(3)
        folder.keep()
        folder.log({"step": 3})
    assert noting.told == ["start", "back to 3", 3, "finished", "closed"]


HOLD = """
import sys
from pathlib import Path

from vidssl.train.folder import RunFolder

with RunFolder(Path(sys.argv[1]), {"command": "pretrain"}, ""):
    print("open", flush=True)
    sys.stdin.readline()
"""


def test_a_folder_in_use_by_another_process_is_refused_until_it_ends(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    with pytest.raises(OutputError, match="run: another process is working in this folder"):
        open_folder(tmp_path / "run", {"command": "pretrain"})
    assert (tmp_path / "run" / "run.json").is_file()  # the refusal took nothing away
    process.kill()
    process.communicate()
    with open_folder(tmp_path / "run", {"command": "pretrain"}) as folder:
        folder.keep()


def test_rewinding_forgets_later_steps_and_a_line_cut_short(tmp_path: Path) -> None:
    with open_folder(tmp_path / "run") as folder:
        folder.keep()
        for step in (0, 9, 19, 29):
            folder.log({"step": step, "loss": step / 7})
        with (tmp_path / "run" / "log.jsonl").open("a") as log:
            log.write('{"step": 39, "lo')
        assert [row["step"] for row in read_log(folder.path)] == [0, 9, 19, 29]
        folder.rewind(20)
        assert read_log(folder.path) == [{"step": s, "loss": s / 7} for s in (0, 9, 19)]
        folder.rewind(0)
        assert read_log(folder.path) == []


def test_a_run_that_says_no_format_is_gone_on_with_and_says_it_from_then_on(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(IDENTITY))
    with open_folder(tmp_path) as folder:
        assert json.loads((folder.path / "run.json").read_text())["format"] == 1


@pytest.mark.parametrize("newer", [2, "next"])
def test_a_run_of_a_newer_format_is_refused_by_that_alone(newer: object, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"format": newer, "unheard": "of"}))
    with pytest.raises(OutputError) as caught:
        open_folder(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'run.json'}: format {json.dumps(newer)} was written by a newer vidssl; "
        "this one reads format 1"
    )


def test_an_event_after_one_that_was_cut_short_is_not_lost_with_it(tmp_path: Path) -> None:
    with open_folder(tmp_path / "run") as folder:
        folder.keep()
        folder.event("start", step=0)
    with (tmp_path / "run" / "events.jsonl").open("a") as events:
        events.write('{"event": "ala')
    with open_folder(tmp_path / "run") as folder:
        folder.event("start", step=4)
    found = [(event["event"], event.get("step")) for event in read_events(tmp_path / "run")]
    assert found == [("start", 0), ("finished", None), ("start", 4)]


def test_a_log_with_bytes_that_are_no_text_is_read_as_far_as_it_is_one(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 0}\n\xff\xfe{"st\n\x00\x00\n{"step": 2}\n')
    assert [entry["step"] for entry in read_log(tmp_path)] == [0, 2]


def test_logs_that_are_not_there_are_empty(tmp_path: Path) -> None:
    assert read_log(tmp_path) == []
    assert read_events(tmp_path / "absent") == []


def test_a_lock_that_its_holder_removed_meanwhile_locks_nobody_out_and_nobody_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with RunFolder(run, {}, "") as folder:
        folder.keep()
    (run / ".lock").touch()
    lock = fcntl.flock
    others: list[int] = []

    def late(handle: int, how: int) -> None:
        if not others:  # between opening and locking, one leaves and the next comes
            (run / ".lock").unlink()
            others.append(os.open(run / ".lock", os.O_RDWR | os.O_CREAT))
            lock(others[0], fcntl.LOCK_EX)
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(OutputError, match="another process is working in this folder"):
        RunFolder(run, {}, "")
    os.close(others[0])
    with RunFolder(run, {}, ""):
        assert is_in_use(run)
