"""The application state finds each part by its type."""

import pytest

from cutout.app.http.state import AppState, provided


def test_a_part_is_found_by_its_type_until_it_is_replaced() -> None:
    state = AppState()
    assert state.put(int, 1) == state.get(int) == state.find(int) == 1
    state.put(int, 2)
    assert state.get(int) == 2
    assert state.find(str) is None


def test_a_part_that_is_missing_is_named() -> None:
    with pytest.raises(LookupError, match="the service has no str"):
        AppState().get(str)


def test_one_type_has_one_dependency() -> None:
    assert provided(int) is provided(int)
    assert provided(int) is not provided(str)
