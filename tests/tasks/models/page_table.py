"""A table of a page whose rows tests find out: compared with what they find, or written by them."""

from pathlib import Path

import pytest


class PageTable:
    """The rows between two marks of a page, by their first cell; with `--write-tables` they are put in its place."""

    def __init__(self, page: Path, name: str, *, write: bool) -> None:
        self._page, self._write = page, write
        self._marks = (f"<!-- table: {name}", "<!-- end -->")

    def check(self, cells: list[str]) -> None:
        """Fail unless the page has the row `cells`; or put it there."""
        row = f"| {' | '.join(cells)} |"
        if self._write:
            self._put(cells[0], row)
        found = self.rows().get(cells[0])
        assert found == row, f"{self._page.name} says otherwise: run the tests of this file with --write-tables"

    def rows(self) -> dict[str, str]:
        """Return the rows of the page by their first cells, without the head."""
        _, body, _ = self._parts()
        return {row.split(" | ")[0].removeprefix("| "): row for row in body.splitlines()[2:]}

    def keep(self, first_cells: list[str]) -> None:
        """Fail unless the page has just the rows that begin so, in this order; or leave only these."""
        if self._write:
            before, body, after = self._parts()
            rows = self.rows()
            kept = [rows[cell] for cell in first_cells if cell in rows]
            self._page.write_text(before + "\n".join([*body.splitlines()[:2], *kept]) + "\n" + after)
        assert list(self.rows()) == first_cells

    def _put(self, first_cell: str, row: str) -> None:
        before, body, after = self._parts()
        rows = self.rows() | {first_cell: row}
        self._page.write_text(before + "\n".join([*body.splitlines()[:2], *rows.values()]) + "\n" + after)

    def _parts(self) -> tuple[str, str, str]:
        text = self._page.read_text()
        begin, end = self._marks
        if begin not in text:
            pytest.fail(f"{self._page} has no line {begin}")
        start = text.index("\n", text.index(begin)) + 1
        stop = text.index(end, start)
        return text[:start], text[start:stop], text[stop:]
