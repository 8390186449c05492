"""Parts of pages that are made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.page import replace_between

MARKS = ("<!-- begin -->", "<!-- end -->")
PAGE = "before\n<!-- begin -->\nold\n<!-- end -->\nafter\n"


def test_what_stands_between_the_markers_is_replaced_and_the_rest_stays():
    made = replace_between(PAGE, MARKS, "new", Path("page.md"))
    assert made == "before\n<!-- begin -->\n\nnew\n\n<!-- end -->\nafter\n"
    assert replace_between(made, MARKS, "new", Path("page.md")) == made


@pytest.mark.parametrize(
    "page",
    ["no markers", PAGE.replace("<!-- end -->", ""), PAGE + PAGE, "<!-- end -->\n<!-- begin -->"],
    ids=["none", "no end", "twice", "swapped"],
)
def test_a_page_without_its_two_markers_is_refused(page):
    with pytest.raises(ValueError, match=r"page\.md must hold the lines <!-- begin --> and <!-- end -->"):
        replace_between(page, MARKS, "new", Path("page.md"))
