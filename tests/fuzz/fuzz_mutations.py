"""Hypothesis strategies that damage valid content: bytes, JSON trees, headers of NIfTI and safetensors, and texts."""

from __future__ import annotations

import copy
import gzip
import json
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

import nibabel as nib
import numpy as np
from hypothesis import strategies as st

Edit = Callable[[bytes], bytes]

HEADER = nib.Nifti1Header.template_dtype
NUMBERS = (0, 1, -1, 2, 7, 255, 2**15 - 1, 2**15, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 10**30, -(10**30))
REALS = (0.0, -1.0, 0.5, 1e-30, 1e30, 1e308, -1e308, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    *("", " ", "0", "1", "-1", "٣", "9" * 5000, "a" * 5000, "1e999", "nan", "../../x", "/etc/passwd", "/", "."),
    *("x\0y", "\ud800", "\x1b[31mred", "two\nlines", "[/bold]", "(", "{}", "%s", "ü", "u\u0308", "\u202e"),
)
ODD = (None, True, False, *NUMBERS, *REALS, *TEXTS, [], [[]], [None], {}, {"a": 1}, list(range(50)), [1.5, "x"])
RAW = (b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"NaN", b"-", b",", b"}", b'"', b"\n")


def chained(edits: st.SearchStrategy[Edit], most: int = 3) -> st.SearchStrategy[Edit]:
    """Several edits, one after the other."""

    def apply(several: list[Edit]) -> Edit:
        def edit(content: bytes) -> bytes:
            for each in several:
                content = each(content)
            return content

        return edit

    return st.lists(edits, min_size=1, max_size=most).map(apply)


def byte_edits() -> st.SearchStrategy[Edit]:
    """Bytes changed, inserted, left out, or the file cut off; half of the places are in the first 400 bytes."""
    place = st.one_of(st.integers(0, 400), st.integers(0, 2**17))
    number = st.sampled_from(NUMBERS).flatmap(
        lambda value: st.sampled_from("<>").map(
            lambda order: struct.pack(order + "q", (value + 2**63) % 2**64 - 2**63)[: 8 if abs(value) >= 2**31 else 4]
        )
    )
    new = st.one_of(st.binary(min_size=1, max_size=8), number, st.sampled_from(RAW))
    return st.one_of(
        st.builds(_replaced, place, new),
        st.builds(_flipped, place, st.integers(0, 7)),
        st.builds(_inserted, place, new),
        st.builds(_opened, place, st.sampled_from((b"[", b'{"a":'))),
        st.builds(_without, place, st.integers(1, 2000)),
        st.builds(_cut, place),
        st.builds(_repeated, place, st.integers(2, 4)),
    )


def tree_edits() -> st.SearchStrategy[Edit]:
    """One value of a JSON text replaced, left out, renamed, or put elsewhere."""
    node = st.integers(0, 5000)
    return st.one_of(
        st.builds(_value_replaced, node, st.sampled_from(ODD)),
        st.builds(_value_removed, node),
        st.builds(_key_renamed, node, st.one_of(st.sampled_from(TEXTS), st.just("version"))),
        st.builds(_value_copied, node, node),
        st.builds(_value_nested, node, st.sampled_from((1, 3, 900, 20_000))),
    )


def json_edits() -> st.SearchStrategy[Edit]:
    """Edits of the tree mostly; a third of the content and its bytes."""
    return st.one_of(chained(tree_edits()), chained(tree_edits()), chained(byte_edits(), most=2))


def word_edits() -> st.SearchStrategy[Edit]:
    """One of the first hundred words replaced by a number or another text, or repeated."""
    new = st.sampled_from((*(str(value) for value in (*NUMBERS, *REALS)), *TEXTS, "x" * 5000, "1 " * 5000, "(1,0,0)"))
    return st.builds(_word_replaced, st.integers(0, 99), new)


def heading_edits() -> st.SearchStrategy[Edit]:
    """Words and bytes of a header that is text."""
    return chained(st.one_of(word_edits(), byte_edits()))


def text_edits() -> st.SearchStrategy[Edit]:
    """Lines and fields of a text replaced by odd ones."""
    odd = st.sampled_from(TEXTS).map(lambda text: text.encode("utf-8", "surrogatepass"))
    return st.one_of(st.builds(_inserted, st.integers(0, 400), odd), chained(st.one_of(word_edits(), byte_edits())))


def option_edits() -> st.SearchStrategy[Edit]:
    """An option by its number, and a text for it."""
    amounts = (
        "1:30",
        "1e3GB",
        "0.5.5GB",
        "1h-3m",
        "8 GB8",
        "0x10",
        "1_000",
        "5" * 400 + "d",
        "nan",
        "0,1",
        "MRI=zscore",
    )
    value = st.one_of(st.sampled_from((*TEXTS, *amounts, "x" * 300, "x/" * 3000)), st.text(max_size=8))
    return st.builds(
        lambda number, text: lambda _: f"{number}\n{text}".encode("utf-8", "surrogatepass"), st.integers(0, 999), value
    )


def nifti_edits() -> st.SearchStrategy[Edit]:
    """A field of the header with another value, or bytes; of a compressed file before or after compression."""
    values = st.sampled_from((*NUMBERS, *REALS))
    field = st.builds(_field_changed, st.sampled_from(HEADER.names), st.integers(0, 7), values)
    inside = chained(st.one_of(field, field, byte_edits()))
    return st.one_of(inside.map(_unpacked), byte_edits())


def tiff_edits() -> st.SearchStrategy[Edit]:
    """Words of the description, within its length, or bytes; pages may be numbered anew or left out."""
    return chained(st.one_of(st.builds(_kept_in_length, word_edits()), word_edits(), byte_edits()))


def tensor_edits() -> st.SearchStrategy[Edit]:
    """The JSON header of a safetensors file, or any bytes."""
    return st.one_of(chained(tree_edits()).map(_in_tensors), chained(byte_edits(), most=2))


def model_edits() -> st.SearchStrategy[Edit]:
    """Mostly the JSON of segtl in the header of a safetensors file."""
    inside = chained(tree_edits()).map(_in_segtl)
    return st.one_of(inside, inside, tensor_edits())


def _replaced(place: int, new: bytes) -> Edit:
    return lambda content: content[: (at := place % (len(content) + 1))] + new + content[at + len(new) :]


def _flipped(place: int, bit: int) -> Edit:
    def edit(content: bytes) -> bytes:
        if not content:
            return content
        at = place % len(content)
        return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]

    return edit


def _inserted(place: int, new: bytes) -> Edit:
    return lambda content: content[: (at := place % (len(content) + 1))] + new + content[at:]


def _opened(place: int, bracket: bytes) -> Edit:
    """More brackets than a parser that calls itself can follow."""
    return lambda content: content[: (at := place % (len(content) + 1))] + bracket * 50_000 + content[at:]


def _without(place: int, count: int) -> Edit:
    return lambda content: content[: (at := place % (len(content) + 1))] + content[at + count :]


def _word_replaced(number: int, new: str) -> Edit:
    def edit(content: bytes) -> bytes:
        words = [match.span() for match in re.finditer(rb"[^\s,()]+", content[:2000])]
        if not words:
            return content
        start, end = words[number % len(words)]
        return content[:start] + new.encode("utf-8", "surrogatepass") + content[end:]

    return edit


def _kept_in_length(inside: Edit) -> Edit:
    """An edit of the text in a file whose other parts are found by their place."""

    def edit(content: bytes) -> bytes:
        match = re.search(rb"<\?xml[^\0]*|ImageJ=[^\0]*", content)
        if match is None:
            return content
        text = inside(match[0])[: len(match[0])].ljust(len(match[0]))
        return content[: match.start()] + text + content[match.end() :]

    return edit


def _cut(place: int) -> Edit:
    return lambda content: content[: place % (len(content) + 1)]


def _repeated(place: int, times: int) -> Edit:
    return lambda content: content[: (at := place % (len(content) + 1))] + content[at : at + 500] * times + content[at:]


def _nodes(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys or indices, outermost first."""
    waiting = [tree]
    while waiting:
        parent = waiting.pop(0)
        for key in list(parent) if isinstance(parent, dict) else range(len(parent)):
            yield parent, key
            if isinstance(parent[key], dict | list):
                waiting.append(parent[key])


def _in_tree(change: Callable[[Any, list[tuple[Any, Any]]], Any]) -> Edit:
    """An edit of JSON; content that an earlier edit made unreadable stays as it is."""

    def edit(content: bytes) -> bytes:
        try:
            tree = {"root": json.loads(content)}
        except (ValueError, RecursionError):
            return content
        change(tree, list(_nodes(tree)))
        try:
            return json.dumps(tree.get("root")).encode()
        except RecursionError:
            return content

    return edit


def _value_replaced(node: int, value: object) -> Edit:
    def change(_: Any, nodes: list[tuple[Any, Any]]) -> None:
        parent, key = nodes[node % len(nodes)]
        parent[key] = copy.deepcopy(value)

    return _in_tree(change)


def _value_removed(node: int) -> Edit:
    def change(_: Any, nodes: list[tuple[Any, Any]]) -> None:
        parent, key = nodes[node % len(nodes)]
        del parent[key]

    return _in_tree(change)


def _key_renamed(node: int, name: str) -> Edit:
    def change(_: Any, nodes: list[tuple[Any, Any]]) -> None:
        parent, key = nodes[node % len(nodes)]
        if isinstance(parent, dict) and key != "root":
            parent[name] = parent.pop(key)

    return _in_tree(change)


def _value_copied(source: int, target: int) -> Edit:
    def change(_: Any, nodes: list[tuple[Any, Any]]) -> None:
        (parent, key), (other, name) = nodes[target % len(nodes)], nodes[source % len(nodes)]
        parent[key] = copy.deepcopy(other[name])

    return _in_tree(change)


def _value_nested(node: int, depth: int) -> Edit:
    """The value within many lists; written by hand, since json.dumps refuses more than a few hundred."""
    mark = "@nested@"

    def edit(content: bytes) -> bytes:
        kept: list[Any] = []

        def change(_: Any, nodes: list[tuple[Any, Any]]) -> None:
            parent, key = nodes[node % len(nodes)]
            kept.append(parent[key])
            parent[key] = mark

        marked = _in_tree(change)(content)
        if not kept:
            return content
        inner = json.dumps(kept[0]).encode()
        return marked.replace(f'"{mark}"'.encode(), b"[" * depth + inner + b"]" * depth)

    return edit


def _field_changed(name: str, index: int, value: float) -> Edit:
    def edit(content: bytes) -> bytes:
        if len(content) < HEADER.itemsize:
            return content
        changed = bytearray(content)
        field = np.ndarray((), HEADER, buffer=changed)[name]
        with np.errstate(all="ignore"):
            if field.dtype.kind == "f":
                new: object = field.dtype.type(value)
            elif field.dtype.kind in "iu":
                new = np.array(int(value) if np.isfinite(value) else -1, object).item() & (
                    2 ** (8 * field.itemsize) - 1
                )
                new = (
                    np.array([new], f"u{field.dtype.itemsize}").view(field.dtype)[0]
                    if field.ndim == 0
                    else int(value == 1)
                )
            else:
                new = str(value).encode()
        if field.ndim:
            field[index % field.size] = new
        else:
            field[...] = new
        return bytes(changed)

    return edit


def _unpacked(inside: Edit) -> Edit:
    def edit(content: bytes) -> bytes:
        if content[:2] == b"\x1f\x8b":
            return gzip.compress(inside(gzip.decompress(content)), mtime=0)
        return inside(content)

    return edit


def _in_tensors(inside: Edit) -> Edit:
    def edit(content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        head = inside(content[8 : 8 + length])
        return len(head).to_bytes(8, "little") + head + content[8 + length :]

    return edit


def _in_segtl(inside: Edit) -> Edit:
    def of_head(head: bytes) -> bytes:
        try:
            entries = json.loads(head)
            text = entries["__metadata__"]["segtl"].encode()
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            return head  # an earlier edit has changed it
        entries["__metadata__"]["segtl"] = inside(text).decode("utf-8", "replace")
        return json.dumps(entries).encode()

    return _in_tensors(of_head)
