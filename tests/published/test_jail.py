"""Opening files that others wrote: every tensor bit for bit, and no code of theirs runs."""

import builtins
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from vidssl.errors import CheckpointError
from vidssl.published import prisoner
from vidssl.published.jail import open_checkpoint

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32),
    *(torch.int16, torch.int8, torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.uint64),
]
LAYOUTS = {"torch": True, "torch (before 1.6)": False}


def saved(path: Path, content: object, layout: str = "torch") -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=LAYOUTS[layout])
    return path


def flat(content: Any, path: str = "") -> dict[str, Tensor]:
    """The tensors of nested dictionaries and lists by dotted name, the plain way."""
    if isinstance(content, Tensor):
        return {path: content.detach()}
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    found: dict[str, Tensor] = {}
    for key, value in pairs:
        if isinstance(value, (Tensor, dict, list, tuple)):
            found |= flat(value, f"{path}.{key}" if path else str(key))
    return found


def everything(layout: str) -> dict[str, Any]:
    torch.manual_seed(0)
    # The newer types have no place in the old layout: torch itself does not load them from there.
    types = DTYPES if LAYOUTS[layout] else DTYPES[:-3]
    base = torch.randn(4, 6)
    norm = nn.BatchNorm3d(3)
    return {
        "types": {str(t): (torch.randn(5) * 3).to(t) for t in types if t.is_floating_point},
        "whole": {
            str(t): torch.tensor([0, 1, 1, 0]).to(t) for t in types if not t.is_floating_point
        },
        "views": [base, base.t(), base[1:3, ::2], base[:, 0], base.view(2, 12), base[2, 3]],
        "spread": torch.tensor([1.5]).expand(7),
        "empty": torch.empty(0, 3),
        "number": torch.tensor(3.0),
        "parameter": nn.Parameter(torch.randn(2, 2)),
        "buffer": norm.running_var,
        "module": norm.state_dict(),
        "deep": OrderedDict(a={"b": [torch.ones(1), (torch.zeros(2),)]}),
        "optimizer": torch.optim.SGD(norm.parameters(), lr=0.1).state_dict(),
        "channels_last": torch.randn(1, 2, 3, 3).to(memory_format=torch.channels_last),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_is_what_torch_itself_loads(tmp_path: Path, layout: str) -> None:
    path = saved(tmp_path / "all.pt", everything(layout), layout)
    expected = flat(torch.load(path, weights_only=True))
    found = open_checkpoint(path)
    assert found.layout == layout
    assert found.tensors.keys() == expected.keys()
    assert len(expected) > 25
    for name, tensor in expected.items():
        assert found.tensors[name].dtype == tensor.dtype, name
        assert found.tensors[name].shape == tensor.shape, name
        assert torch.equal(found.tensors[name], tensor), name
    assert found.unbuilt == ()


def test_facts_are_the_plain_values_beside_the_tensors(tmp_path: Path) -> None:
    content = {
        "epoch": 7,
        "cfg": "A: 1\nB: é\n",
        "best": 0.5,
        "ok": True,
        "none": None,
        "args": [1, {"x": "y"}],
        "on": torch.device("cuda:1"),
        "type": torch.float16,
        "size": torch.Size([2]),
        "counts": defaultdict(int),
        "w": torch.ones(1),
    }
    facts = open_checkpoint(saved(tmp_path / "a.pt", content)).facts
    assert facts == {
        "epoch": 7,
        "cfg": "A: 1\nB: é\n",
        "best": 0.5,
        "ok": True,
        "none": None,
        "args.0": 1,
        "args.1.x": "y",
        "on": "cuda:1",
        "type": "torch.float16",
        "size.0": 2,
    }


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_numpy_arrays_of_a_pickle_are_themselves(tmp_path: Path, protocol: int) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "f4": rng.standard_normal((2, 3)).astype(np.float32),
        "f8": rng.standard_normal(4),
        "f2": rng.standard_normal(4).astype(np.float16),
        "big": np.arange(6, dtype=">i4").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "part": np.arange(12)[::3],
        "bool": np.array([True, False]),
        "byte": np.arange(3, dtype=np.uint8),
        "empty": np.zeros((0, 2), np.float32),
    }
    path = tmp_path / "a.pkl"
    content = {"blobs": arrays, "scalar": np.float32(1.5), "lr": 0.1}
    path.write_bytes(pickle.dumps(content, protocol))
    found = open_checkpoint(path)
    assert (found.layout, found.facts) == ("pickle", {"lr": 0.1})
    for name, array in arrays.items():
        tensor = found.tensors[f"blobs.{name}"].numpy()
        assert tensor.dtype == array.dtype.newbyteorder("="), name
        assert np.array_equal(tensor, array), name
    assert found.tensors["scalar"].item() == 1.5


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    # As Python 2 writes {"w": float32 array [1, -2]}: byte strings without a type of their own.
    content = np.array([1.0, -2.0], "<f4").tobytes()
    path = tmp_path / "a.pkl"
    path.write_bytes(
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff"
        b"\xffJ\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(content)]) + content + b"tbs."
    )
    assert open_checkpoint(path).tensors["w"].tolist() == [1.0, -2.0]


def test_safetensors_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    safetensors.torch.save_file({"w": torch.arange(3.0)}, str(path), {"by": "me"})
    found = open_checkpoint(path)
    assert (found.layout, found.facts) == ("safetensors", {"by": "me"})
    assert found.tensors["w"].tolist() == [0, 1, 2]


# --- files that would run something


class Calls:
    """Calls a function with arguments wherever it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class SetsState:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["mark"]).touch()


class Listens(list[Any]):
    def append(self, item: Any) -> None:
        Path(item).touch()

    def extend(self, items: Any) -> None:
        for item in items:
            Path(item).touch()

    def __reduce__(self) -> Any:
        return (Listens, (), None, iter([self.mark]))

    mark = ""


def listening(mark: str) -> Listens:
    inert = Listens()
    inert.mark = mark
    return inert


PAYLOADS: dict[str, Callable[[str], object]] = {
    "os.system": lambda mark: Calls(os.system, f"touch {mark}"),
    "eval": lambda mark: Calls(builtins.eval, f"open({mark!r}, 'w')"),
    "exec": lambda mark: Calls(builtins.exec, f"import os; os.mkdir({mark!r})"),
    "open": lambda mark: Calls(open, mark, "w"),
    "Popen": lambda mark: Calls(subprocess.Popen, ["touch", mark]),
    "setstate": SetsState,
    "append": listening,
    "array of objects": lambda mark: np.array([Calls(os.system, f"touch {mark}")], object),
    "numpy's load": lambda mark: Calls(np.loadtxt, mark),
    "in a key": lambda mark: {Calls(os.system, f"touch {mark}"): 1},
}


def as_pickle(path: Path, payload: object) -> None:
    path.write_bytes(pickle.dumps({"evil": payload, "w": np.ones(2, np.float32)}, 2))


def as_torch(path: Path, payload: object) -> None:
    torch.save({"evil": payload, "w": torch.ones(2)}, path)


def as_old_torch(path: Path, payload: object) -> None:
    torch.save({"evil": payload, "w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("name", "write"),
    [(name, as_torch) for name in PAYLOADS]
    + [(name, write) for name in ("os.system", "setstate") for write in (as_pickle, as_old_torch)],
)
def test_nothing_runs_and_the_tensors_beside_it_are_read(
    tmp_path: Path, name: str, write: Callable[[Path, object], None]
) -> None:
    mark = tmp_path / "ran"
    write(tmp_path / "evil.pt", PAYLOADS[name](str(mark)))
    found = open_checkpoint(tmp_path / "evil.pt")
    assert not mark.exists()
    assert found.tensors["w"].tolist() == [1, 1]
    assert found.unbuilt


@pytest.mark.parametrize("name", ["os.system", "exec", "setstate", "append"])
def test_the_payloads_are_live(tmp_path: Path, name: str) -> None:
    # Without the jail they do run, or the test above shows nothing.
    mark = tmp_path / "ran"
    as_pickle(tmp_path / "evil.pkl", PAYLOADS[name](str(mark)))
    pickle.loads((tmp_path / "evil.pkl").read_bytes())
    assert mark.exists()


def test_torchs_own_switch_to_unsafe_loading_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    as_torch(tmp_path / "evil.pt", Calls(os.system, f"touch {tmp_path}/ran"))
    open_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_what_was_not_built_is_named(tmp_path: Path) -> None:
    as_pickle(tmp_path / "a.pkl", Calls(os.system, "true"))
    assert open_checkpoint(tmp_path / "a.pkl").unbuilt == ("posix.system",)


def test_a_pickled_module_gives_no_tensor_and_is_named(tmp_path: Path) -> None:
    found = open_checkpoint(saved(tmp_path / "a.pt", nn.Linear(2, 2)))
    assert found.tensors == {}
    assert "torch.nn.modules.linear.Linear" in found.unbuilt


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\x80\x02\x82\x01.", "unregistered extension code"),
        (b"\x80\x02X\x04\x00\x00\x00fileQ.", "refers to something outside itself"),
        (b"\x80\x05\x97.", "damaged, or not a checkpoint"),
        # NEWOBJ of what is no class; a new attribute for torch's builder.
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)\x81.", "damaged, or not a checkpoint"),
        (b"\x80\x02ctorch\nSize\nN}U\x01aK\x01s\x86b.", None),
        (b"\x80\x02(ccollections\nOrderedDict\nN}U\x05itemscos\nsystem\ns\x86b.", None),
    ],
)
def test_what_only_hand_written_pickles_do_is_refused_or_does_nothing(
    tmp_path: Path, body: bytes, message: str | None
) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(body)
    if message is None:
        assert open_checkpoint(path).tensors == {}
    else:
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(path)


ONE = pickle.dumps(np.ones(1, np.float32), 2)[2:-1]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"}X\x09\x00\x00\x00a\nwrote b" + ONE + b"s.", r"holds the name 'a\nwrote b', which"),
        (b"}X\x03\x00\x00\x00\x1b[m" + ONE + b"s.", r"holds the name '\x1b[m', which"),
        (b"\x8c\x02os\x8c\x03a\nb\x93.", r"holds the name 'os.a\nb', which"),
        # The key of a storage, in a message of ours.
        (
            b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x03\x00\x00\x00a\nbX\x03\x00\x00\x00"
            b"cpuK\x01tQ0(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x03\x00\x00\x00a\nb"
            b"X\x03\x00\x00\x00cpuK\x02tQ.",
            "storage a?b has two sizes",
        ),
    ],
)
def test_what_is_printed_is_one_line_and_cannot_steer_the_terminal(
    tmp_path: Path, body: bytes, message: str
) -> None:
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + body)
    assert message in refused(tmp_path / "a.pkl")


def test_names_in_safetensors_are_looked_at_as_well(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a\nb": torch.ones(1)}, str(path))
    assert r"holds the name 'a\nb', which cannot be printed" in refused(path)


def test_a_text_that_python_warns_about_is_no_attack(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"(dS'\\q'\nI1\ns.")
    assert open_checkpoint(tmp_path / "a.pkl").facts == {r"\q": 1}


def test_a_storage_whose_key_would_be_a_long_text_is_refused(tmp_path: Path) -> None:
    # A tuple of twice the one before, 60 times, is small until it is written out.
    twice = b"".join(b"q%ch%c\x86" % (n, n) for n in range(60))
    key = b")" + twice
    (tmp_path / "a.pkl").write_bytes(
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        + key
        + b"X\x03\x00\x00\x00cpuK\x01tQ."
    )
    assert "a storage's key is no text" in refused(tmp_path / "a.pkl")


# --- the wall, for the case that the unpickler has a hole


BREAKOUTS = [
    "open('inside', 'w')",
    "open('/etc/passwd')",
    "os.open('/dev/null', os.O_RDONLY)",
    "os.system('true')",
    "os.fork()",
    "os.execv('/bin/true', ['true'])",
    "os.remove('out.json')",
    "os.kill(1, 0)",
    "os.listdir('.')",
    "os.posix_spawn('/bin/true', ['true'], {})",
    "__import__('wave')",
    "exec('1')",
    "eval('1')",
    "compile('1', '', 'eval')",
    "subprocess.Popen(['true'])",
    "socket.socket()",
    "ctypes.CDLL(None)",
    "sys.addaudithook(print)",
]


@pytest.mark.parametrize("attempt", BREAKOUTS)
def test_the_wall_ends_whatever_is_tried(tmp_path: Path, attempt: str) -> None:
    program = f"""
import ctypes, importlib.util, os, socket, subprocess, sys
spec = importlib.util.spec_from_file_location("prisoner", {prisoner.__file__!r})
prisoner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prisoner)
def attempt():
    {attempt}
open("out.json", "w").close()
prisoner.limit(1000, 60)
prisoner.wall()
attempt()
os.write(1, b"got away with it")
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout == ""
    assert done.returncode == prisoner.STOPPED, done.stderr
    assert not (tmp_path / "inside").exists()


def test_the_kernel_opens_nothing_even_without_the_hook(tmp_path: Path) -> None:
    program = f"""
import importlib.util, os, socket, sys
spec = importlib.util.spec_from_file_location("prisoner", {prisoner.__file__!r})
prisoner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prisoner)
sys.addaudithook = lambda hook: None
prisoner.wall()
for what in (lambda: os.open("inside", os.O_CREAT | os.O_WRONLY), socket.socket, os.pipe):
    try:
        what()
    except OSError as error:
        print(error.errno)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["24", "24", "24"], done.stderr  # EMFILE
    assert not (tmp_path / "inside").exists()


def test_an_unpickler_with_a_hole_is_stopped_by_the_wall(tmp_path: Path) -> None:
    weak = tmp_path / "weak.py"
    source = Path(prisoner.__file__).read_text()
    hole = "return self.table[name]\n"
    assert hole in source
    weak.write_text(
        source.replace(
            hole, hole + "        return getattr(sys.modules[module_name], global_name)\n", 1
        )
    )
    as_pickle(tmp_path / "evil.pkl", Calls(os.system, f"touch {tmp_path}/ran"))
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-I", weak, tmp_path / "evil.pkl", tmp_path / "out", "60"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (prisoner.STOPPED, "os.system")
    assert not (tmp_path / "ran").exists()


# --- files that are too much, or too little


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_lists_of_lists_without_end_are_refused(tmp_path: Path) -> None:
    laughs: list[Any] = [1]
    for _ in range(60):
        laughs = [laughs] * 10
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(laughs))
    assert "too big: more than 500000 items" in refused(tmp_path / "a.pkl")
    ring: dict[str, Any] = {}
    ring["again"] = ring
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(ring))
    assert "nested without end" in refused(tmp_path / "b.pkl")


def test_memory_is_bounded(tmp_path: Path) -> None:
    # A memo of 2**31 entries would take 32 GB.
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02}r\x00\x00\x00\x80.")
    assert "too big: takes more memory" in refused(tmp_path / "a.pkl")


def test_a_view_that_is_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", torch.ones(1).expand(10**10))
    assert "too big: its tensors take more than" in refused(path)


def test_texts_are_bounded(tmp_path: Path) -> None:
    text = "x" * 2**19
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": np.ones(1), "texts": [text] * 1000}))
    facts = open_checkpoint(tmp_path / "a.pkl").facts
    # Each is cut to 2**18 characters, and there are 2**22 in all.
    assert [len(fact) for fact in facts.values()] == [2**18] * 16


def test_compressed_and_overlapping_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", bytes(10_000_000))
    assert "compressed members, which torch never writes" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", bytes(100))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")  # the last member's entry: sizes at 20 and 24
    struct.pack_into("<II", data, at + 20, 10**9, 10**9)
    path.write_bytes(data)
    assert "claims more bytes than" in refused(path)


def rebuilt(offset: int, size: tuple[int, ...], strides: tuple[int, ...], path: Path) -> Path:
    """Write a torch file of one tensor with the given view of four floats."""
    torch.save(torch.zeros(4), path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    buffer = io.BytesIO()

    class Pickler(pickle._Pickler):
        def persistent_id(self, obj: Any) -> Any:
            storage = isinstance(obj, torch.storage.TypedStorage)
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if storage else None

    typed = torch.storage.TypedStorage(  # type: ignore[no-untyped-call]
        wrap_storage=torch.zeros(4).untyped_storage(), dtype=torch.float32, _internal=True
    )
    arguments: tuple[Any, ...] = (typed, offset, size, strides, False, OrderedDict())
    Pickler(buffer, 2).dump(Calls(torch._utils._rebuild_tensor_v2, *arguments))
    root = next(name for name in members if name.endswith("data.pkl"))
    members[root] = buffer.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("offset", "size", "strides", "message"),
    [
        (0, (5,), (1,), "reaches element 4 of a storage of 4"),
        (3, (2,), (1,), "reaches element 4 of a storage of 4"),
        (0, (2, 3), (2, 1), "reaches element 4 of a storage of 4"),
        (-1, (1,), (1,), "shape or strides are"),
        (3, (2,), (-1,), "shape or strides are"),
        (0, (2,), (1, 1), "1 sizes and 2 strides"),
        (0, (0, 2**61), (1, 1), "too big: a tensor's shape is"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(
    tmp_path: Path, offset: int, size: tuple[int, ...], strides: tuple[int, ...], message: str
) -> None:
    assert message in refused(rebuilt(offset, size, strides, tmp_path / "a.pt"))


def test_a_tensor_inside_its_storage_is_not(tmp_path: Path) -> None:
    path = rebuilt(0, (2, 3), (1, 1), tmp_path / "a.pt")
    assert open_checkpoint(path).tensors["content"].shape == (2, 3)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, layout: str, share: float) -> None:
    path = saved(tmp_path / "a.pt", {"w": torch.zeros(5000), "v": torch.zeros(5000)}, layout)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    message = refused(path)
    assert any(word in message for word in ("truncated", "damaged", "not a checkpoint")), message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a checkpoint"),
        (b"<!DOCTYPE html><html>", "not a checkpoint: begins with b'<!DOCTYPE html>"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    assert message in refused(tmp_path / "a.pth")


def test_other_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "without torch's data.pkl" in refused(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        archive.writestr("b/data.pkl", pickle.dumps({}))
        archive.writestr("b/constants.pkl", pickle.dumps(()))
    assert "TorchScript" in refused(tmp_path / "b.pt")


def test_a_missing_file_is_told_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "slowfast.pyth").touch()
    message = refused(tmp_path / "slowfats.pyth")
    assert "did you mean 'slowfast.pyth'" in message
    assert "is a folder" in refused(tmp_path)


def test_what_is_no_file_is_told_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "link")
    for name in ("pipe", "link"):
        assert refused(tmp_path / name).endswith(f"{name}: is no file; expected a file of weights")
    assert refused(tmp_path / ("x" * 300)).endswith("File name too long")
