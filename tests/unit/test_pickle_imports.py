"""What unpickling would import, read from the opcodes; hiding it does not work."""

from __future__ import annotations

import collections
import datetime
import io
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest

from rlzoo.core.pickle_imports import COMPUTED, imports_of


class Recorder(pickle._Unpickler):  # type: ignore[name-defined, misc]
    """Python's own unpickler, which says what it imports."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.found: set[str] = set()

    def find_class(self, module: str, name: str) -> object:
        self.found.add(f"{module}.{name}")
        return super().find_class(module, name)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        [1, "text", b"bytes", 2.5, None, True, (1, 2, 3, 4)],
        {"a": {"b": [{1, 2}, frozenset([3])]}},
        np.arange(5),
        [np.float32(1), np.zeros((2, 2)), np.zeros(3)],
        [collections.OrderedDict(a=1), datetime.datetime(2020, 1, 1), datetime.timedelta(1)],
        [Path("a"), Path("b"), print, len, Path],
        [slice, complex(1, 2), "io open", ["io", "open"]],
    ],
    ids=str,
)
def test_the_imports_are_those_of_the_unpickler(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    recorder = Recorder(data)
    recorder.load()
    assert imports_of(data) == sorted(recorder.found)


def test_a_name_cannot_be_hidden_behind_others() -> None:
    # os.mkdir lies on the stack before two texts that are thrown away again
    data = b"\x80\x04\x8c\x02os\x8c\x05mkdir\x8c\x04math\x8c\x03sin00\x93."
    assert pickle.loads(data).__name__ == "mkdir"
    assert imports_of(data) == ["os.mkdir"]
    # the same with the memo
    data = b"\x80\x04\x8c\x02os\x940\x8c\x05mkdir\x940\x8c\x04math0h\x00h\x01\x93."
    assert pickle.loads(data).__name__ == "mkdir"
    assert imports_of(data) == ["os.mkdir"]
    # and behind a mark that is popped
    data = b"\x80\x04\x8c\x02os(\x8c\x01x1\x8c\x05mkdir\x93."
    assert pickle.loads(data).__name__ == "mkdir"
    assert imports_of(data) == ["os.mkdir"]


def test_a_name_that_is_computed_is_shown_as_such() -> None:
    # str.join is called for the name of the function
    data = b"\x80\x04\x8c\x02osc_operator\nadd\n\x8c\x02mk\x8c\x03dir\x86R\x93."
    assert pickle.loads(data).__name__ == "mkdir"
    assert imports_of(data) == sorted([COMPUTED, "_operator.add"])


def test_a_second_pickle_behind_the_first_is_seen() -> None:
    assert imports_of(pickle.dumps(1) + pickle.dumps(print)) == ["builtins.print"]


def test_every_opcode_is_known() -> None:
    assert all(isinstance(op.stack_before, list) for op in pickletools.opcodes)


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_damaged_bytes_are_said_to_be_so(length: int) -> None:
    whole = pickle.dumps([print, np.zeros(3)])
    assert "unreadable" in imports_of(whole[:length])[-1]


def test_a_forged_length_is_no_trouble() -> None:
    assert "unreadable" in imports_of(b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x.")[-1]
