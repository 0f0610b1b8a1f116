from collections.abc import Sequence

import pytest

from twin.review.cases import Page, all_pages


@pytest.mark.parametrize("items", [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4, 5)], ids=len)
def test_all_pages_hold_each_item_once_and_are_read_once(items: Sequence[int]) -> None:
    read = []

    def page_of(number: int) -> Page[int]:
        read.append(number)
        return Page(tuple(items[2 * number - 2 : 2 * number]), number, 2, len(items))

    assert tuple(all_pages(page_of)) == items
    assert read == list(range(1, max(1, -(-len(items) // 2)) + 1))
