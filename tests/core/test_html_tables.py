"""HTML tables in Markdown text: their cells, their lines, and text that only looks like one."""

import time

from hubkit.core.html_tables import html_tables

TABLE = """# Scores

<table>
  <caption>Our <b>scores</b></caption>
  <thead><tr><th>Model</th><th>ARC</th><th>Average</th></tr></thead>
  <tbody>
    <tr>
      <td rowspan="2"><a href="x">ours</a></td><td>60.0</td><td><b>60.0</b></td>
    </tr>

    <tr><td colspan=2>**70.0** &plusmn; 1</td></tr>
  </tbody>
</table>
"""


def test_cells_spans_and_lines() -> None:
    (table,) = html_tables(TABLE)
    assert (table.line, table.caption, table.nested) == (3, "Our scores", False)
    assert [(row.line, row.cells) for row in table.rows] == [
        (5, ("Model", "ARC", "Average")),
        (7, ("ours", "60.0", "60.0")),
        (11, ("ours", "70.0 ± 1", "70.0 ± 1")),
    ]


def test_what_is_no_table() -> None:
    assert html_tables("Use <table> tags.\n\n<table><tr><td>a picture</td></tr></table>") == []
    assert html_tables("<!-- <table><tr><td>1<td>2<tr><td>3<td>4</table> -->") == []
    (table,) = html_tables("<table><tr><td>1<td>2<tr><td>3<td>4</table>")
    assert [row.cells for row in table.rows] == [("1", "2"), ("3", "4")], "tags that HTML lets out"


def test_a_table_within_a_table_is_told() -> None:
    inner = "<table><tr><td>1</td><td>2</td></tr></table>"
    (table,) = html_tables(f"<table><tr><td>{inner}</td><td>b</td></tr><tr><td>c</td><td>d</td></tr></table>")
    assert table.nested


def test_hostile_text_takes_no_longer_than_another() -> None:
    start = time.monotonic()
    for text in ("<table><tr>" + "<td colspan=999 rowspan=999>1" * 10_000, "<table>" * 40_000, "<td " * 70_000):
        html_tables(f"{text}</table>")
    assert time.monotonic() - start < 20
