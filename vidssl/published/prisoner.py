"""The program that opens a file which may run code, in a process that can do nothing with it.

It is run by path, with the standard library and numpy alone, and is given a file and two open
outputs. The order is what makes it safe: imports, limits, files opened, wall, and only then the
first byte of the file.

- **Wall**: no file, socket or pipe can be opened any more (the kernel's limit on them is 0), and an
  audit hook ends the process on every event that is not on a short list: no import, no ``exec``, no
  process, no foreign function.
- **Unpickler**: what the file calls is not looked up. A fixed table of names gives builders of this
  module that make plain records; any other name becomes a class that swallows whatever is done to
  it and is told as "not built".
- **Limits**: memory, processor seconds and bytes written, as multiples of the file's size.

Out go a safetensors file with the tensors, written without any library, and JSON with the rest.
Read are torch's zip files, the layout before torch 1.6 and plain pickles, of Python 2 as well.
"""

import codecs
import io
import json
import math
import os
import pickle
import resource
import struct
import sys
import zipfile
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NoReturn

import numpy as np

STOPPED = 77
"""Exit code: something was tried that the wall forbids; its name is on stderr."""
GIB = 2**30
MAX_ITEMS = 500_000  # of all dictionaries and lists; a real checkpoint holds some thousands
MAX_NAME = 1_000  # characters of a dotted path
MAX_FACTS, MAX_TEXT, MAX_TEXTS = 20_000, 2**18, 2**22  # characters of one, and of all
MAX_SIZE = 2**48  # elements, were none of a shape's sizes 0
MAX_UNBUILT = 100
GROWTH = 4  # times its own size that a file's tensors may take, as views may share memory

OLD_MAGIC = 0x1950A86A20F9469CFC6C
OLD_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
OLD_PROTOCOL = 1001

# Name of the type in a pickle: (safetensors' name, numpy type that holds its bits).
DTYPES = {
    "float64": ("F64", "<f8"),
    "float32": ("F32", "<f4"),
    "float16": ("F16", "<f2"),
    "bfloat16": ("BF16", "<u2"),
    "int64": ("I64", "<i8"),
    "int32": ("I32", "<i4"),
    "int16": ("I16", "<i2"),
    "int8": ("I8", "<i1"),
    "uint64": ("U64", "<u8"),
    "uint32": ("U32", "<u4"),
    "uint16": ("U16", "<u2"),
    "uint8": ("U8", "<u1"),
    "bool": ("BOOL", "<u1"),
}
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}
NUMPY_CODES = {
    "f8": "float64",
    "f4": "float32",
    "f2": "float16",
    "i8": "int64",
    "i4": "int32",
    "i2": "int16",
    "i1": "int8",
    "u8": "uint64",
    "u4": "uint32",
    "u2": "uint16",
    "u1": "uint8",
    "b1": "bool",
}


class RefusedError(Exception):
    """Why the file is not read, in words for a person."""


# --- what the unpickler may build: records without behaviour


class Record:
    """A thing from the file; whatever the file does to it afterwards is swallowed."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Take no state: without this, pickle would set attributes of its choosing."""

    def __setattr__(self, name: str, value: object) -> None:
        """Keep what was set at birth."""
        raise RefusedError("it changes what it may only read")


class DType(Record):
    """An element type of torch."""

    __slots__ = ("name",)
    name: str

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "name", name)


class Storage(Record):
    """Elements in the file: ``numel`` from ``start`` of the piece ``key``."""

    __slots__ = ("dtype", "key", "numel", "start")
    key: str
    dtype: str
    numel: int
    start: int

    def __init__(self, key: str, dtype: str, numel: int, start: int = 0) -> None:
        for name, value in (("key", key), ("dtype", dtype), ("numel", numel), ("start", start)):
            object.__setattr__(self, name, value)


class View(Record):
    """A tensor: a strided view of a storage, all in elements of ``dtype``."""

    __slots__ = ("dtype", "offset", "shape", "storage", "strides")
    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(
        self,
        storage: Storage,
        dtype: str,
        offset: int,
        shape: Sequence[int],
        strides: Sequence[int],
    ) -> None:
        for name, value in (
            ("storage", storage),
            ("dtype", dtype),
            ("offset", offset),
            ("shape", tuple(shape)),
            ("strides", tuple(strides)),
        ):
            object.__setattr__(self, name, value)


class ArrayType(Record):
    """numpy's dtype; the byte order comes with its state."""

    __slots__ = ("code", "order")
    code: str
    order: str

    def __init__(self, code: Any = "", *_: object) -> None:
        object.__setattr__(self, "code", _text(code))
        object.__setattr__(self, "order", "<")

    def __setstate__(self, state: Any) -> None:
        """Take the byte order, the second of numpy's state."""
        if isinstance(state, tuple) and len(state) > 1 and _text(state[1]) == ">":
            object.__setattr__(self, "order", ">")


class Array(Record):
    """A numpy array, which gets its content as state: (version, shape, type, Fortran, bytes)."""

    __slots__ = ("content",)
    content: tuple[Any, ...]

    def __init__(self, *content: object) -> None:
        object.__setattr__(self, "content", content)

    def __setstate__(self, state: Any) -> None:
        """Take shape, type, order and bytes."""
        if isinstance(state, tuple) and len(state) == 5:
            object.__setattr__(self, "content", state[1:])


class _Frozen(type):
    """A class that the file cannot change."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise RefusedError("it changes a class")


class Inert(metaclass=_Frozen):
    """In place of a class or function of the file's choosing: never does anything."""

    __slots__ = ()

    def __new__(cls, *_: object, **__: object) -> "Inert":
        """Make one, whatever for."""
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> "Inert":
        """Give something as inert."""
        return self

    def __setstate__(self, state: object) -> None:
        """Take no state."""

    def __setattr__(self, name: str, value: object) -> None:
        """Take no attribute."""

    def __setitem__(self, key: object, value: object) -> None:
        """Take no item."""

    def append(self, item: object) -> None:
        """Take no item."""

    def extend(self, items: object) -> None:
        """Take no items."""

    def add(self, item: object) -> None:
        """Take no item."""


class Builder(Record):
    """A function of this module that the file may call."""

    __slots__ = ("function",)
    function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "function", function)

    def __call__(self, *arguments: object) -> object:
        """Call it."""
        return self.function(*arguments)


# --- the builders


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin1")
    return value if isinstance(value, str) else ""


def _raw(value: object) -> bytes:
    """Return bytes, which Python 2 wrote as a string."""
    if isinstance(value, str):
        return value.encode("latin1")
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    raise RefusedError("an array's content is not bytes")


def _whole(values: object) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)):
        raise RefusedError("a tensor's shape is no tuple")
    if not all(type(value) is int and 0 <= value < 2**62 for value in values):
        raise RefusedError(f"a tensor's shape or strides are {tuple(values)!r:.80}")
    return tuple(values)


def _shape(values: object) -> tuple[int, ...]:
    shape = _whole(values)
    if math.prod(size for size in shape if size) > MAX_SIZE:
        raise RefusedError(f"too big: a tensor's shape is {shape!r:.80}")
    return shape


def tensor(
    storage: object, offset: object, shape: object, strides: object, *rest: object
) -> object:
    """Return the view of a storage, all of which is inside it."""
    if not isinstance(storage, Storage):
        return Inert()
    dtype = rest[2] if len(rest) > 2 else None  # of _rebuild_tensor_v3
    name = dtype.name if isinstance(dtype, DType) else storage.dtype
    sizes, steps, (start,) = _shape(shape), _whole(strides), _whole((offset,))
    if len(sizes) != len(steps):
        raise RefusedError(f"a tensor has {len(sizes)} sizes and {len(steps)} strides")
    if len(sizes) > 32:
        raise RefusedError(f"a tensor has {len(sizes)} axes")
    held = storage.numel * _width(storage.dtype) // _width(name)
    if 0 not in sizes:
        last = start + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
        if last >= held:
            raise RefusedError(f"a tensor reaches element {last} of a storage of {held}")
    return View(storage, name, start, sizes, steps)


def _width(dtype: str) -> int:
    return int(DTYPES[dtype][1][2:])


def _parameter(data: object, *_: object) -> object:
    return data


def _from_type(function: object, _: object, arguments: object, *__: object) -> object:
    """Return a tensor that carried attributes, without them."""
    if isinstance(function, Builder) and isinstance(arguments, tuple):
        return function(*arguments)
    return Inert()


def _mapping(*arguments: Any) -> object:
    """Return a dictionary of pairs, as OrderedDict takes them."""
    if arguments and isinstance(arguments[0], (list, tuple)):
        return OrderedDict((key, value) for key, value in arguments[0])
    return OrderedDict()


def _items(*arguments: Any) -> object:
    return list(arguments[0]) if arguments and isinstance(arguments[0], (list, tuple)) else []


def _size(*arguments: Any) -> object:
    return tuple(arguments[0]) if arguments and isinstance(arguments[0], (list, tuple)) else ()


def _device(*arguments: Any) -> object:
    return ":".join(str(part) for part in arguments if isinstance(part, (str, int)))


def _encoded(text: object, encoding: object = "latin1", *_: object) -> bytes:
    if not isinstance(text, str) or encoding not in {"latin1", "latin-1"}:
        raise RefusedError("bytes are not written as latin1")
    return text.encode("latin1")


def _from_buffer(data: object, dtype: object, shape: object, order: object, *_: object) -> object:
    """Return an array as newer numpy writes them."""
    return Array(shape, dtype, order == "F", data)


def _scalar(dtype: object, data: object = b"", *_: object) -> object:
    return Array((), dtype, False, data)


def _reconstructed(kind: object, *_: object) -> object:
    return kind() if isinstance(kind, type) and issubclass(kind, Inert) else Inert()


def _table() -> dict[str, object]:
    """Return what each name in a pickle stands for; there are no others."""
    table: dict[str, object] = {
        "torch._utils._rebuild_tensor": Builder(tensor),
        "torch._utils._rebuild_tensor_v2": Builder(tensor),
        "torch._utils._rebuild_tensor_v3": Builder(tensor),
        "torch._utils._rebuild_parameter": Builder(_parameter),
        "torch._utils._rebuild_parameter_with_state": Builder(_parameter),
        "torch._tensor._rebuild_from_type_v2": Builder(_from_type),
        "torch.Size": Builder(_size),
        "torch.device": Builder(_device),
        "collections.OrderedDict": Builder(_mapping),
        "collections.defaultdict": Builder(lambda *_: OrderedDict()),
        "_codecs.encode": Builder(_encoded),
        "numpy.ndarray": Builder(Array),
        "numpy.dtype": Builder(ArrayType),
    }
    for builtins in ("builtins", "__builtin__"):
        table |= {f"{builtins}.{name}": Builder(_items) for name in ("set", "frozenset", "list")}
        table |= {f"{builtins}.tuple": Builder(_size), f"{builtins}.dict": Builder(_mapping)}
        table |= {f"{builtins}.bytes": Builder(lambda *_: b"")}
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray._reconstruct"] = Builder(lambda *_: Array())
        table[f"{core}.multiarray.scalar"] = Builder(_scalar)
        table[f"{core}.numeric._frombuffer"] = Builder(_from_buffer)
    for copyreg in ("copyreg", "copy_reg"):
        table[f"{copyreg}._reconstructor"] = Builder(_reconstructed)
    for name, dtype in STORAGES.items():
        table |= {f"torch.{name}": DType(dtype), f"torch.storage.{name}": DType(dtype)}
        table[f"torch.cuda.{name}"] = DType(dtype)
    table |= {f"torch.{name}": DType(name) for name in DTYPES}
    return table


class Unpickler(pickle.Unpickler):
    """Builds what the table knows, and notes the names of the rest."""

    def __init__(self, file: IO[bytes]) -> None:
        # Python 2's strings may hold bytes, which latin1 keeps as they are.
        super().__init__(file, fix_imports=False, encoding="latin1", errors="strict")
        self.table = _table()
        self.unbuilt: dict[str, type] = {}
        self.storages: dict[str, Storage] = {}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return a builder, or a class that does nothing; nothing is imported or looked up."""
        name = f"{module_name}.{global_name}"
        if name in self.table:
            return self.table[name]
        if name not in self.unbuilt:
            if len(self.unbuilt) >= MAX_UNBUILT:
                raise RefusedError(f"it wants more than {MAX_UNBUILT} classes that are not built")
            self.unbuilt[name] = _Frozen("Inert", (Inert,), {"__slots__": ()})
        return self.unbuilt[name]

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage that torch means: ("storage", type, key, device, elements[, view])."""
        if not isinstance(pid, tuple) or not pid or _text(pid[0]) not in {"storage", "module"}:
            raise RefusedError("it refers to something outside itself")
        if _text(pid[0]) == "module":  # a class with its source text, in old files
            return pid[1] if len(pid) > 1 else Inert()
        if len(pid) not in {5, 6}:
            raise RefusedError(f"a storage is described by {len(pid)} values")
        kind, key, numel = pid[1], pid[2], pid[4]
        if not isinstance(kind, DType):
            return Inert()
        if not isinstance(key, (str, int)):  # the text of a tuple may be long
            raise RefusedError("a storage's key is no text")
        (count,) = _whole((numel,))
        storage = self.storages.setdefault(str(key), Storage(str(key), kind.name, count))
        if _width(kind.name) * count > _width(storage.dtype) * storage.numel:
            raise RefusedError(f"storage {key!s:.40} has two sizes")
        start = 0
        if len(pid) == 6 and pid[5] is not None:  # a part of it, in old files
            _, first, count = pid[5]
            start, count = _whole((first, count))
            if start + count > storage.numel:
                raise RefusedError(f"storage {key!s:.40} has a part outside itself")
        return Storage(str(key), kind.name, count, start)


# --- the layouts


class Pieces:
    """Where the bytes of each storage are in the file: ``key -> (first byte, bytes)``."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.places: dict[str, tuple[int, int]] = {}
        self._last: tuple[str, bytes] = ("", b"")

    def read(self, key: str) -> bytes:
        """Return the bytes of a storage; the last one is kept."""
        if self._last[0] != key:
            if key not in self.places:
                raise RefusedError(f"truncated: storage {key:.40} is not there")
            start, size = self.places[key]
            self.file.seek(start)
            data = self.file.read(size)
            if len(data) != size:
                raise RefusedError(
                    f"truncated: storage {key:.40} holds {len(data)} of {size} bytes"
                )
            self._last = (key, data)
        return self._last[1]


def read_zip(file: IO[bytes], size: int) -> tuple[Any, Unpickler, Pieces]:
    """Read torch's own layout: a zip archive whose members are stored as they are."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise RefusedError(f"truncated or damaged: {error}") from error
    members = {member.filename: member for member in archive.infolist()}
    if any(name.endswith("constants.pkl") for name in members):
        raise RefusedError("a TorchScript program; expected weights (a state dict)")
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise RefusedError("a zip archive without torch's data.pkl; not a checkpoint")
    (root,) = roots
    inside = [member for name, member in members.items() if name.startswith(root)]
    if any(member.compress_type != zipfile.ZIP_STORED for member in inside):
        raise RefusedError("has compressed members, which torch never writes")
    if sum(member.file_size for member in inside) > size:
        raise RefusedError(f"claims more bytes than the {size} that it has")
    pieces = Pieces(file)
    for member in inside:
        pieces.places[member.filename.removeprefix(root)] = _place(file, member)
    if pieces.places.get("byteorder") and pieces.read("byteorder").strip() != b"little":
        raise RefusedError("was written on a big-endian machine")
    unpickler = Unpickler(io.BytesIO(pieces.read("data.pkl")))
    content = unpickler.load()
    pieces.places = {
        name.removeprefix("data/"): place
        for name, place in pieces.places.items()
        if name.startswith("data/")
    }
    return content, unpickler, pieces


def _place(file: IO[bytes], member: zipfile.ZipInfo) -> tuple[int, int]:
    """Return (first byte, bytes) of a stored member; before it stands its name once more."""
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise RefusedError("truncated or damaged: a member is not where the archive says")
    name, extra = struct.unpack("<HH", header[26:30])
    return member.header_offset + 30 + name + extra, member.file_size


def read_old(file: IO[bytes], size: int) -> tuple[Any, Unpickler, Pieces]:
    """Read the layout before torch 1.6: pickles in a row, then the bytes of each storage."""
    magic, protocol, _ = (Unpickler(file).load() for _ in range(3))
    if (magic, protocol) != (OLD_MAGIC, OLD_PROTOCOL):
        raise RefusedError(f"torch's layout {protocol!r:.40} is not known")
    unpickler = Unpickler(file)
    content = unpickler.load()
    keys = Unpickler(file).load()
    if not isinstance(keys, list):
        raise RefusedError("truncated: no list of storages")
    pieces = Pieces(file)
    for key in map(str, keys):
        count = file.read(8)
        if key not in unpickler.storages or len(count) != 8:
            raise RefusedError(f"truncated: storage {key:.40} is not there")
        bytes_ = struct.unpack("<q", count)[0] * _width(unpickler.storages[key].dtype)
        if not 0 <= bytes_ <= size - file.tell():
            raise RefusedError(f"truncated: storage {key:.40} should hold {bytes_} bytes")
        pieces.places[key] = (file.tell(), bytes_)
        file.seek(bytes_, os.SEEK_CUR)
    return content, unpickler, pieces


def read_plain(file: IO[bytes]) -> tuple[Any, Unpickler, Pieces]:
    """Read a pickle of dictionaries and numpy arrays."""
    start = file.read(16)
    file.seek(0)
    # Protocol 2 and later begin with their number, earlier ones with one of these.
    if not start or start[0] not in b"\x80(c}]Il":
        raise RefusedError(f"not a checkpoint: begins with {start!r}")
    unpickler = Unpickler(file)
    return unpickler.load(), unpickler, Pieces(file)


# --- from what was built to tensors and facts


def flat(content: object) -> Iterator[tuple[str, object]]:
    """Give (dotted path, leaf) of nested dictionaries and lists, the shallow ones first."""
    waiting: deque[tuple[str, object]] = deque([("", content)])
    seen = 0
    while waiting:
        path, value = waiting.popleft()
        pairs: Any = None
        if isinstance(value, dict):
            pairs = value.items()
        elif isinstance(value, (list, tuple, set, frozenset)):
            pairs = enumerate(value)
        if pairs is None:
            yield path or "content", value
            continue
        seen += len(value)  # type: ignore[arg-type]
        if seen > MAX_ITEMS:
            raise RefusedError(f"too big: more than {MAX_ITEMS} items")
        for key, item in pairs:
            if not isinstance(key, (str, int, bytes)):
                continue
            name = _text(key) if isinstance(key, bytes) else str(key)
            if len(path) + len(name) > MAX_NAME:
                raise RefusedError("nested without end, or names without end")
            waiting.append((f"{path}.{name}" if path else name, item))


def sorted_out(
    content: object, unbuilt: dict[str, type]
) -> tuple[dict[str, View | Array], dict[str, object], list[str]]:
    """Return the tensors, the plain values, and the names of what was not built."""
    tensors: dict[str, View | Array] = {}
    facts: dict[str, object] = {}
    others = list(unbuilt)
    texts = 0
    for path, leaf in flat(content):
        if path in tensors or path in facts:
            raise RefusedError(f"has two things of the name {path!r:.80}")
        if isinstance(leaf, View):
            tensors[path] = leaf
        elif isinstance(leaf, Array):
            if why := _unreadable(leaf):
                others.append(why)
            else:
                tensors[path] = leaf
        elif (fact := _fact(leaf)) is not None and len(facts) < MAX_FACTS and texts < MAX_TEXTS:
            facts[path] = fact[0]
            texts += len(fact[0]) if isinstance(fact[0], str) else 0
    return tensors, facts, list(dict.fromkeys(others))[:MAX_UNBUILT]


def _fact(leaf: object) -> tuple[object] | None:
    """Return a plain value as JSON can hold it, or None if this is no plain value."""
    if isinstance(leaf, str):
        return (leaf[:MAX_TEXT],)
    if isinstance(leaf, DType):
        return (f"torch.{leaf.name}",)
    if isinstance(leaf, int) and not isinstance(leaf, bool):
        return (leaf,) if abs(leaf) < 2**63 else None
    return (leaf,) if leaf is None or isinstance(leaf, (bool, float)) else None


def _unreadable(array: Array) -> str:
    """Say why an array has no numbers, or nothing if it has."""
    if len(array.content) != 4:
        return "numpy.ndarray without content"
    dtype = array.content[1]
    if not isinstance(dtype, ArrayType):
        return "numpy.ndarray of an unknown type"
    code = dtype.code
    if code.startswith("O"):
        return "numpy.ndarray of objects"
    return "" if code.lstrip("<>|=") in NUMPY_CODES else f"numpy.ndarray of {code:.20}"


def array_type(array: Array) -> tuple[str, str]:
    """Return (name of the element type, numpy's code with the byte order)."""
    dtype: ArrayType = array.content[1]
    code = dtype.code.lstrip("<>|=")
    order = ">" if dtype.order == ">" or dtype.code.startswith(">") else "<"
    return NUMPY_CODES[code], order + ("u1" if code == "b1" else code)


def outline(leaf: View | Array) -> tuple[str, tuple[int, ...]]:
    """Return (name of the element type, shape)."""
    if isinstance(leaf, View):
        return leaf.dtype, leaf.shape
    return array_type(leaf)[0], _shape(leaf.content[0])


def values(leaf: View | Array, pieces: Pieces) -> bytes:
    """Return a tensor's elements in order, little-endian."""
    dtype, shape = outline(leaf)
    if 0 in shape:
        return b""
    held = DTYPES[dtype][1]
    if isinstance(leaf, Array):
        _, code, (_, _, fortran, data) = *array_type(leaf), leaf.content
        raw = _raw(data)
        if len(raw) != math.prod(shape) * _width(dtype):
            raise RefusedError(f"an array of shape {shape} has {len(raw)} bytes")
        array = np.frombuffer(raw, dtype=code).reshape(shape, order="F" if fortran else "C")
        return array.astype(held).tobytes()
    storage, width = leaf.storage, _width(dtype)
    raw = pieces.read(storage.key)
    first = storage.start * _width(storage.dtype) + leaf.offset * width
    last = first + sum((n - 1) * step for n, step in zip(shape, leaf.strides, strict=True)) * width
    if last + width > len(raw):
        raise RefusedError(f"truncated: storage {storage.key:.40} holds {len(raw)} bytes")
    strides = tuple(step * width for step in leaf.strides)
    return np.ndarray(shape, dtype=held, buffer=raw, offset=first, strides=strides).tobytes()


def write_tensors(
    tensors: dict[str, View | Array], pieces: Pieces, out: IO[bytes], room: int
) -> None:
    """Write safetensors: length of the header, header, then all elements without gaps.

    Raises:
        RefusedError: if they take more than ``room`` bytes.
    """

    def place(name: str) -> tuple[int, str]:
        # Wide elements first, so that all are aligned; those of one storage together.
        leaf = tensors[name]
        return -_width(outline(leaf)[0]), leaf.storage.key if isinstance(leaf, View) else ""

    header: dict[str, object] = {}
    end = 0
    order = sorted(tensors, key=place)
    for name in order:
        dtype, shape = outline(tensors[name])
        start, end = end, end + math.prod(shape) * _width(dtype)
        header[name] = {"dtype": DTYPES[dtype][0], "shape": shape, "data_offsets": [start, end]}
        if end > room:
            raise RefusedError(f"too big: its tensors take more than {room} bytes")
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.write(struct.pack("<Q", len(text)) + text)
    for name in order:
        out.write(values(tensors[name], pieces))


# --- the prison


def limit(size: int, seconds: int) -> None:
    """Bound memory, processor time and what can be written."""
    for kind, most in (
        (resource.RLIMIT_AS, GIB + 4 * size),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, room(size) + GIB // 16),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def room(size: int) -> int:
    """Return how many bytes the tensors of a file of ``size`` bytes may take."""
    return GROWTH * size + 2**20


ALLOWED = frozenset(
    # Events of reading plain data; every other, known or new, ends the process.
    ("array.__new__", "builtins.id", "object.__getattr__")
)


def wall() -> None:
    """From here on nothing can be opened, imported, started or called outside this module."""
    for name in ("ascii", "latin1", "utf-8", "utf-16-le", "cp437", "unicode_escape"):
        codecs.lookup(name)  # found by an import on first use

    def forbid(event: str, _: tuple[object, ...]) -> None:
        if event not in ALLOWED:
            os.write(2, event.encode())
            os._exit(STOPPED)

    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    sys.addaudithook(forbid)


def answer(source: IO[bytes], out: IO[bytes], size: int) -> dict[str, object]:
    """Write the tensors; return what else there is to tell."""
    start = source.read(16)
    source.seek(0)
    if start[:4] == b"PK\x03\x04":
        layout, (content, unpickler, pieces) = "torch", read_zip(source, size)
    elif start.startswith(OLD_START):
        layout, (content, unpickler, pieces) = "torch (before 1.6)", read_old(source, size)
    else:
        layout, (content, unpickler, pieces) = "pickle", read_plain(source)
    tensors, facts, unbuilt = sorted_out(content, unpickler.unbuilt)
    write_tensors(tensors, pieces, out, room(size))
    return {"layout": layout, "facts": facts, "unbuilt": unbuilt}


def told(error: Exception, size: int) -> str:
    """Return in words why a file could not be read."""
    if isinstance(error, RefusedError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"too big: takes more memory than a file of {size} bytes may"
    if isinstance(error, OSError):
        return f"could not be read: {error.strerror}"
    if isinstance(error, EOFError):
        return "truncated: ends in the middle"
    return f"damaged, or not a checkpoint: {type(error).__name__}: {error!s:.200}"


def main(arguments: Sequence[str]) -> NoReturn:
    """Read the file ``arguments[0]`` into ``arguments[1]``, a folder; see the module."""
    path, folder, seconds = arguments[0], arguments[1], int(arguments[2])
    size = os.stat(path).st_size
    os.chdir(folder)
    with (
        open(path, "rb") as source,
        open("out.safetensors", "wb") as out,
        open("out.json", "w", encoding="utf-8") as words,
    ):
        limit(size, seconds)
        wall()
        try:
            text = json.dumps(answer(source, out, size))
            out.flush()
        # Whatever a file like this can cause, it is the file that is wrong.
        except Exception as error:
            text = json.dumps({"error": told(error, size)})
        words.write(text)
        words.flush()
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
