import pytest
import torch

from glscl.util.shapes import check_shape


def test_returns_the_size_of_each_axis():
    assert check_shape(torch.zeros(2, 3, 4), "B F D") == {"B": 2, "F": 3, "D": 4}


def test_names_the_axis_and_both_sizes():
    with pytest.raises(ValueError, match=r"frames: axis 2 \(D\).*size 5, got 4"):
        check_shape(torch.zeros(2, 3, 4), "B F D", "frames", D=5)


def test_counts_axes():
    with pytest.raises(ValueError, match=r"2 axes \(A, D\), got 3"):
        check_shape(torch.zeros(2, 3, 4), "A D", "captions")


def test_a_letter_that_occurs_twice_is_one_size():
    assert check_shape(torch.zeros(3, 3), "Q Q") == {"Q": 3}
    with pytest.raises(ValueError, match=r"axis 1 \(Q\)"):
        check_shape(torch.zeros(3, 4), "Q Q")


def test_numbers_are_sizes():
    check_shape(torch.zeros(4, 5), "4 D")
    with pytest.raises(ValueError, match="axis 0"):
        check_shape(torch.zeros(3, 5), "4 D")
