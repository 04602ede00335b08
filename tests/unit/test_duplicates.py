from __future__ import annotations

import numpy as np

from seg_transfer.data.duplicates import Duplicates, content_hash, find_duplicates


def test_the_hash_sees_values_and_shape_and_nothing_else() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    first = content_hash([array])
    assert len(first) == 32
    assert content_hash([np.asfortranarray(array)]) == content_hash([array.astype(np.int16)]) == first
    assert content_hash([array[::-1][::-1]]) == first
    assert content_hash([array.reshape(2, 4, 3)]) != first
    assert content_hash([array[::-1]]) != first
    assert content_hash([array, array]) != content_hash([array, array[::-1]])
    changed = array.copy()
    changed[1, 2, 3] += 1
    assert content_hash([changed]) != first


def test_duplicates_are_found_with_what_their_labels_say() -> None:
    images = {"d": "x", "a": "x", "b": "y", "c": "z", "e": "x", "f": "y"}
    labels = {"a": "1", "d": "1", "e": "1", "b": "1", "f": "2", "c": "1"}
    found = find_duplicates(images, labels)
    assert found == [Duplicates(("a", "d", "e"), True), Duplicates(("b", "f"), False)]
    assert str(found[0]) == "a, d and e hold the same image and the same label"
    assert str(found[1]) == "b and f hold the same image under different labels, of which at most one is right"
    assert find_duplicates({"a": "x", "b": "y"}, {"a": "1", "b": "1"}) == []
