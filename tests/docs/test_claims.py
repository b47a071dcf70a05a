"""The figures in the README are those of the benchmarks."""

from __future__ import annotations

from tests.docs.blocks import ROOT

# The columns of how many times as fast ours is; bold where ours is slower.
DRAINED, ENQUEUED = 2, 4
OTHERS = ("SAQ", "taskiq", "docket", "arq", "Celery, prefork", "Celery, threads")


def read_peers() -> dict[str, list[str]]:
    """Return the cells of each row in the table of other task queues, each tuned."""
    text = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    table = text.partition("<!-- peers -->")[2].partition("<!-- ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row] for row in rows]
    return {row[0]: row for row in cells if row[0]}


def test_the_readme_compares_with_the_figures_of_the_benchmarks():
    """The README has the ratios of the benchmarks, and names each queue that is faster."""
    readme = (ROOT / "README.md").read_text("utf-8")
    peers = read_peers()

    def ratio(name: str) -> float:
        return float(peers[name][DRAINED])

    others = [ratio(name) for name in OTHERS]
    assert f"{ratio('dramatiq'):g} times as many tasks a second as dramatiq's" in readme
    assert f"{min(others):g} to {max(others):g} times as many as one of" in readme

    def faster(column: int) -> str:
        return " and ".join(name for name, row in peers.items() if row[column].startswith("**"))

    assert faster(DRAINED) == "cauli"
    assert f"{faster(ENQUEUED)} enqueues faster." in readme
