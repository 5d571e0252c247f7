"""Nothing that a file says is ever run, imported or called."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import io
import os
import pathlib
import pickle
import pickletools
import struct
import subprocess
import sys
import tarfile
import types
import uuid
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from operator import attrgetter, methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.bypasses import PUBLISHED, g, spelled

from tbps_cli.errors import WeightsError
from tbps_cli.weights.weights_file import read_tensors


class Does:
    """Pickles as a call of anything."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def archive(path: Path, program: bytes, **records: bytes) -> Path:
    """A torch zip archive around a pickle program."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", program)
        for key, record in records.items():
            file.writestr(f"archive/data/{key.removeprefix('key')}", record)
    return path


def attacks(marker: Path) -> dict[str, object]:
    """Objects whose unpickling by Python itself would create the marker."""
    shell = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w')"
    return {
        "posix.system": Does(os.system, shell),
        "builtins.eval": Does(eval, code),
        "builtins.exec": Does(exec, code),
        "(subprocess|commands).check_call": Does(subprocess.check_call, ["touch", str(marker)]),
        "builtins.getattr": Does(getattr, "x", "upper"),
        "functools.partial": Does(partial, print, "x"),
        "operator.attrgetter": Does(attrgetter, "system"),
        "operator.methodcaller": Does(methodcaller, "system", shell),
        "io.open": Does(open, str(marker), "w"),
        "torch.serialization.load": Does(torch.load, str(marker)),
        "torch.storage._load_from_bytes": Does(torch.storage._load_from_bytes, b"x"),
        "torch.jit._serialization.load": Does(torch.jit.load, str(marker)),
        "torch.hub.load_state_dict_from_url": Does(torch.hub.load_state_dict_from_url, "http://127.0.0.1/"),
    }


NAMES = sorted(attacks(Path("x")))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_file_that_asks_for_code_is_refused_by_name_and_nothing_runs(
    tmp_path: Path, name: str, protocol: int
) -> None:
    marker = tmp_path / "marker"
    value = {"model": {"w": torch.zeros(2)}, "extra": [1, {"deep": attacks(marker)[name]}]}
    path = tmp_path / "best.pth"
    for as_zip in (True, False):
        torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=as_zip)
        # Python 3.13 writes io.open as _io.open
        with pytest.raises(WeightsError, match=rf"best\.pth asks for _?{name}") as caught:
            read_tensors(path)
        assert caught.value.hint is not None
    assert not marker.exists()


def test_the_attack_would_have_worked_on_pythons_own_unpickler(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(attacks(marker)["posix.system"]))
    assert marker.exists()


@pytest.mark.parametrize(
    ("program", "word"),
    [
        # dotted names through an allowed module
        (g("collections", "abc.sys.modules"), "asks for collections.abc.sys.modules"),
        (b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93.", r"asks for torch\.os\.system"),
        (g("torch", "FloatTensor") + b")R.", r"asks for torch\.FloatTensor"),
        (g("torch._utils", "os.system") + b"(S'x'\ntR.", "asks for torch._utils.os.system"),
        # allowed names in places where they are no data
        (g("torch", "FloatStorage") + b"(I8\ntR.", "asks for a call of torch.FloatStorage"),
        (g("numpy", "ndarray") + b"(I8\ntR.", "asks for a call of numpy.ndarray"),
        (g("builtins", "list") + b")R.", "asks for a call of builtins.list"),
        (g("_codecs", "encode") + b"(S'x'\nS'rot13'\ntR.", "the codec 'rot13'"),
        (g("_codecs", "encode") + b"(S'x'\nS'zip'\ntR.", "the codec 'zip'"),
        (g("numpy", "dtype") + b"(S'O8'\nI00\nI01\ntR(dbcnumpy.core.multiarray\nscalar\n.", "damaged"),
        # numbers and boxes where bytes and texts belong
        (
            g("numpy.core.multiarray", "scalar") + b"(" + g("numpy", "dtype") + b"(S'f8'\ntRI999999999999\ntR.",
            "damaged",
        ),
        (g("torch", "device") + b"((lp0\ntR.", "a list in the place of str"),
        (g("_codecs", "encode") + b"((ltR.", "a list in the place of str"),
        # calling what is no name, setting the state of what has none
        (b"S'system'\n(S'x'\ntR.", "not a name"),
        (g("collections", "OrderedDict") + b"(dS'__class__'\nS'x'\nsb.", "a state for something"),
        (g("torch._utils", "_rebuild_tensor_v2") + b"(S'__defaults__'\nI1\ndb.", "a state for something"),
        (g("torch._tensor", "_rebuild_from_type_v2") + b"(cbuiltins\nlist\nNNNtR.", "no known function"),
        (b"(lI1\nS'append'\n(I2\ntb.", "a state for something"),
        # opcodes that data never needs
        (b"\x80\x02\x82\x01.", "asks for the pickle opcode EXT1"),
        (b"Px\n.", "asks for the pickle opcode PERSID"),
        (b"(cos\nsystem\nS'x'\no.", "asks for os.system"),
        (b"(S'x'\nios\nsystem\n.", "asks for the pickle opcode INST"),
        (g("collections", "OrderedDict") + b")}\x92.", "asks for the pickle opcode NEWOBJ_EX"),
        # stacks that do not fit
        (b".", "damaged"),
        (b"0.", "damaged"),
        (b"h\x07.", "damaged"),
        (b"(I1\nI2\nI3\nd.", "damaged"),
        (b"}(]I1\nu.", "damaged"),
        (b"I1\nI2\na.", "damaged"),
        (b"\x80\x04]\x94(h\x00\x90.", "damaged"),
        (b"I1\nQ.", "damaged"),
        (b"S'unclosed\n.", "damaged"),
        (b"I" + b"9" * 6000 + b"\n.", "damaged"),
    ],
)
def test_hand_written_programs_stay_inside_the_table(tmp_path: Path, program: bytes, word: str) -> None:
    path = archive(tmp_path / "best.pth", program)
    with pytest.raises(WeightsError, match=word) as caught:
        read_tensors(path)
    assert "\n" not in caught.value.message


def test_nothing_is_imported_by_a_files_wish(tmp_path: Path) -> None:
    (tmp_path / "evil_module_of_a_test.py").write_text("raise SystemExit('imported')\n")
    sys.path.insert(0, str(tmp_path))
    try:
        path = archive(tmp_path / "best.pth", g("evil_module_of_a_test", "Thing") + b")R.")
        with pytest.raises(WeightsError, match=r"evil_module_of_a_test\.Thing"):
            read_tensors(path)
        path = archive(tmp_path / "best.pth", g("__torch__.evil_module_of_a_test", "Thing") + b")\x81}b.")
        assert read_tensors(path).content == {}
    finally:
        sys.path.remove(str(tmp_path))
    assert "evil_module_of_a_test" not in sys.modules


def test_our_own_classes_are_untouched_by_a_hostile_state(tmp_path: Path) -> None:
    before = dict(vars(collections.OrderedDict))
    program = g("easydict", "EasyDict") + b")\x81}(S'__class__'\nS'x'\nS'keys'\nI1\nub."
    assert read_tensors(archive(tmp_path / "best.pth", program)).content == {"__class__": "x", "keys": 1}
    assert dict(vars(collections.OrderedDict)) == before
    assert type({}.keys()).__name__ == "dict_keys"


def test_a_whole_pickled_model_is_refused_by_its_class(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        read_tensors(tmp_path / "model.pth")


# Samples of bypasses that were published against scanners of pickles, made again -----------------


@pytest.mark.parametrize("named", PUBLISHED)
def test_published_bypasses_are_refused_by_name_however_the_name_is_spelled(tmp_path: Path, named: str) -> None:
    module, name = named.split()
    marker = tmp_path / "marker"
    programs = spelled(module, name, f"touch {marker}")
    for kind, program in programs.items():
        with pytest.raises(WeightsError, match=r"asks for .*it was not run") as caught:
            read_tensors(archive(tmp_path / "best.pth", program))
        told = caught.value.message
        assert kind == "INST" or f"{module}.{name}".replace("__builtin__", "builtins") in told, (kind, told)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("program", "word"),
    [
        # a pickle within the pickle: numpy unpickles the bytes of a scalar or array of objects
        (
            g("numpy.core.multiarray", "scalar") + b"(" + g("numpy", "dtype")
            + b"(S'O8'\nI00\nI01\ntRS'cos\\nsystem'\ntR.",
            "the codec|damaged",
        ),
        (
            g("numpy.core.multiarray", "_reconstruct") + b"(" + g("numpy", "ndarray") + b"(I0\ntS'b'\ntR(I1\n(I1\nt"
            + g("numpy", "dtype") + b"(S'O8'\nI00\nI01\ntRI00\n(cos\nsystem\nltb.",
            "asks for os.system",
        ),
        (g("numpy", "dtype") + b"(S'O8'\ntR0" + g("numpy.core.multiarray", "scalar") + b"(" + g("numpy", "dtype")
         + b"(S'O'\ntRS'x'\ntR.", "damaged"),
        (g("_codecs", "decode") + b"(S'x'\ntR.", "asks for _codecs.decode"),
        (g("_codecs", "encode") + b"(S'x'\nS'unicode_escape'\ntR.", "the codec 'unicode_escape'"),
        # the registry of extensions, buffers from outside, states of classes
        (b"\x80\x02\x83\x01\x01.", "asks for the pickle opcode EXT2"),
        (b"\x80\x02\x84\x01\x00\x00\x01.", "asks for the pickle opcode EXT4"),
        (b"\x80\x05\x97.", "asks for the pickle opcode NEXT_BUFFER"),
        (b"\x80\x05\x8c\x01x\x98.", "asks for the pickle opcode READONLY_BUFFER"),
        (g("torch", "Size") + b"}S'__reduce__'\nI1\nsb.", "a state for something"),
        (g("pathlib", "PosixPath") + b"(cos\nsystem\ntR.", "asks for os.system"),
        # persistent ids that are no place in the file
        (b"(S'storage'\n" + g("collections", "OrderedDict") + b"S'0'\nS'cpu'\nI1\ntQ.", "damaged"),
        (b"(S'module'\ncos\nsystem\ntQ.", "asks for os.system"),
        (b"(S'storage'\nS'x'\ntQ.", "damaged"),
        # harmless classes with arguments that are not theirs
        (g("pathlib", "PosixPath") + b"((lptR.", "damaged"),
        (g("builtins", "bytearray") + b"(I999999999999\ntR.", "damaged"),
        (g("datetime", "datetime") + b"(S'short'\ntR.", "damaged"),
        (g("datetime", "timedelta") + b"(I" + b"9" * 30 + b"\ntR.", "damaged"),
        (g("numpy", "dtype") + b"(S'U999999999'\ntR0N0" + g("numpy.core.multiarray", "scalar") + b"("
         + g("numpy", "dtype") + b"(S'U999999999'\ntRS'x'\ntR.", "damaged"),
    ],
)  # fmt: skip
def test_programs_of_other_kinds_stay_inside_the_table_too(tmp_path: Path, program: bytes, word: str) -> None:
    with pytest.raises(WeightsError, match=word) as caught:
        read_tensors(archive(tmp_path / "best.pth", program))
    assert "\n" not in caught.value.message


class Values:
    """Everything harmless that options hold."""

    given: dict[str, object] = {  # noqa: RUF012
        "path": pathlib.PurePosixPath("/data/CUHK-PEDES"),
        "name": np.str_("irra"),
        "names": np.array(["a", "bc"]),
        "raw": np.bytes_(b"x"),
        "flag": np.bool_(True),
        "kind": np.dtype("float32"),
        "class": np.float32,
        "complex": 1 + 2j,
        "bytes": bytearray(b"ab"),
        "range": range(1, 9, 2),
        "slice": slice(1, 2),
        "queue": collections.deque([1, 2], maxlen=5),
        "day": datetime.date(2026, 1, 2),
        "time": datetime.datetime(2026, 1, 2, 3, 4, 5),
        "took": datetime.timedelta(hours=1),
        "number": decimal.Decimal("1.50"),
        "half": fractions.Fraction(1, 2),
        "options": types.SimpleNamespace(lr=0.1),
        "id": uuid.UUID(int=7),
        "layout": torch.strided,
        "pairs": {(1, "a"): 2},
    }
    read: dict[str, object] = {  # noqa: RUF012
        "path": "/data/CUHK-PEDES",
        "name": "irra",
        "names": ["a", "bc"],
        "raw": b"x",
        "flag": True,
        "kind": "<f4",
        "class": "numpy.float32",
        "complex": 1 + 2j,
        "bytes": b"ab",
        "range": (1, 9, 2),
        "slice": (1, 2, None),
        "queue": [1, 2],
        "day": "2026-01-02",
        "time": "2026-01-02T03:04:05",
        "took": 3600.0,
        "number": "1.50",
        "half": "1/2",
        "options": {"lr": 0.1},
        "id": {"int": 7},
        "layout": "torch.strided",
        "pairs": {(1, "a"): 2},
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "stream"])
def test_harmless_classes_become_plain_values(tmp_path: Path, protocol: int, as_zip: bool) -> None:
    torch.save(Values.given, tmp_path / "a.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=as_zip)
    found = read_tensors(tmp_path / "a.pth").content
    found["names"] = found["names"].tolist()
    assert {key: found[key] for key in Values.read} == Values.read


def test_two_records_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
        file.writestr("archive/data.pkl", g("os", "system") + b"(S'x'\ntR.")
    with pytest.raises(WeightsError, match=r"holds 'archive/data.pkl' twice"):
        read_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize("trick", ["name", "encrypted", "checksum", "method", "overlap"])
def test_a_directory_that_does_not_fit_its_records_is_refused(tmp_path: Path, trick: str) -> None:
    """The central directory says one thing and the record another: scanners read one, loaders the other."""
    path = archive(tmp_path / "a.pth", tensor(), key0=struct.pack("<4f", 1, 2, 3, 4))
    whole = bytearray(path.read_bytes())
    local, central = whole.index(b"PK\x03\x04"), whole.index(b"PK\x01\x02")
    if trick == "name":
        whole[local + 30 : local + 37] = b"evil/ab"
    elif trick == "encrypted":
        whole[central + 8] |= 1
    elif trick == "checksum":
        whole[central + 16] ^= 0xFF
    elif trick == "method":
        whole[central + 10] = 97
    else:  # the second record begins where the first does
        second = whole.index(b"PK\x01\x02", central + 4)
        whole[second + 42 : second + 46] = struct.pack("<I", local)
    path.write_bytes(whole)
    with pytest.raises(WeightsError):
        read_tensors(path)


def test_the_oldest_form_of_torch_a_tar_file_is_not_read(tmp_path: Path) -> None:
    """PyTorch's own advisory of 2025: its reader of tar files ran code in spite of weights_only."""
    with tarfile.open(tmp_path / "a.pth", "w") as file:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            raw = pickle.dumps(Does(os.system, f"touch {tmp_path / 'marker'}"))
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            file.addfile(info, io.BytesIO(raw))
    with pytest.raises(WeightsError, match="not a weights file"):
        read_tensors(tmp_path / "a.pth")
    assert not (tmp_path / "marker").exists()


# Sizes ------------------------------------------------------------------------------------------


def tensor(count: int = 4, offset: int = 0, size: str = "(2, 2)", stride: str = "(2, 1)", key: str = "0") -> bytes:
    """A pickle of one float32 tensor with every number as one likes."""
    parts = [
        g("torch._utils", "_rebuild_tensor_v2"),
        b"((S'storage'\n" + g("torch", "FloatStorage") + f"S'{key}'\nS'cpu'\nI{count}\ntQI{offset}\n".encode(),
        *(
            b"("
            + b"".join(f"I{number.strip()}\n".encode() for number in text.strip("(),").split(",") if number.strip())
            + b"t"
            for text in (size, stride)
        ),
        b"I00\n" + g("collections", "OrderedDict") + b")RtR.",
    ]
    return b"".join(parts)


def test_the_hand_made_tensor_is_a_good_one_when_its_numbers_are(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pth", tensor(), key0=struct.pack("<4f", 1, 2, 3, 4))
    assert read_tensors(path).content.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ({"count": 5}, "declares 5 values"),
        ({"count": 10**15}, "declares 1,000,000,000,000,000 values"),
        ({"count": -4}, "declares -4 values"),
        ({"offset": 1}, "damaged"),
        ({"offset": -1}, "impossible shape"),
        ({"size": "(3, 2)"}, "damaged"),
        ({"stride": "(2, 2)"}, "damaged"),
        ({"stride": "(-2, 1)"}, "impossible shape"),
        ({"stride": "(1,)"}, "impossible shape"),
        ({"size": "(1000000000, 1000000000)", "stride": "(0, 0)"}, "damaged"),
        ({"size": "(-1, 2)"}, "impossible shape"),
        ({"key": "1"}, "storage '1' is missing"),
        ({"key": "../../../../etc/passwd"}, "is missing"),
        ({"key": "/etc/passwd"}, "is missing"),
    ],
)
def test_a_tensor_that_reaches_outside_its_storage_is_refused(
    tmp_path: Path, numbers: dict[str, Any], word: str
) -> None:
    path = archive(tmp_path / "a.pth", tensor(**numbers), key0=struct.pack("<4f", 1, 2, 3, 4))
    with pytest.raises(WeightsError, match=word):
        read_tensors(path)


def test_a_record_that_declares_a_terabyte_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pth", tensor(count=2**30), key0=struct.pack("<4f", 1, 2, 3, 4))
    whole = bytearray(path.read_bytes())
    entry = whole.rindex(b"PK\x01\x02", 0, whole.rindex(b"archive/data/0"))
    whole[entry + 20 : entry + 28] = struct.pack("<II", 2**32 - 16, 2**32 - 16)
    path.write_bytes(whole)
    with pytest.raises(WeightsError, match="declares 4,294,967"):
        read_tensors(path)


def test_a_compressed_bomb_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", tensor(count=2**24))
        file.writestr("archive/data/0", bytes(2**26))
    with pytest.raises(WeightsError, match="compressed"):
        read_tensors(tmp_path / "a.pth")


def test_a_stream_that_declares_too_much_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "a.pth").read_bytes()
    at = whole.index(struct.pack("<q", 1000), len(whole) - 4100)
    changed = bytearray(whole)
    changed[at : at + 8] = struct.pack("<q", 2**40)
    (tmp_path / "a.pth").write_bytes(changed)
    with pytest.raises(WeightsError, match="damaged"):
        read_tensors(tmp_path / "a.pth")


def test_boxes_in_boxes_do_not_take_for_ever(tmp_path: Path) -> None:
    laughs = b"(lp0\n" + b"".join(f"0(lg{i}\nag{i}\nap{i + 1}\n".encode() for i in range(60)) + b"."
    deep = b"(l" * 30000 + b"a" * 29999 + b"."
    assert isinstance(read_tensors(archive(tmp_path / "a.pth", laughs)).content, list)
    with pytest.raises(WeightsError, match="nested too deeply"):
        read_tensors(archive(tmp_path / "b.pth", deep))


def test_a_list_that_holds_itself_is_read(tmp_path: Path) -> None:
    value: list[Any] = [1]
    value.append(value)
    read = read_tensors(archive(tmp_path / "a.pth", pickle.dumps(value))).content
    assert read[1] is read


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_values_of_every_protocol_come_back_equal(tmp_path: Path, protocol: int) -> None:
    value = {
        "numbers": [0, -1, 255, 65535, 2**31, -(2**70), 1.5, True, False, None],
        "texts": ["", "a", "é" * 300, b"bytes"],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "sets": [{1, 2}, frozenset({"a"})],
    }
    value["again"] = value["texts"]
    if protocol < 3:
        value["texts"] = value["again"] = ["a"]
    read = read_tensors(archive(tmp_path / "a.pth", pickle.dumps(value, protocol))).content
    assert read == value
    assert read["again"] is read["texts"]


def test_the_programs_of_these_tests_are_real_pickles() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pickletools.dis(tensor(), out=io.StringIO())
