"""The index of pages: what it lists, what failed, and an index of nothing."""

from pipeline.report import main
from tests.pipeline.page_elements import HOSTILE, Elements, write_manifest
from tests.pipeline.report_series_builder import (
    make_series,
    run_page,
)


def test_index_lists_what_is_there_and_says_what_failed(tmp_path):
    results = tmp_path / "results"
    make_series(results / "c/s/n")
    assert run_page(results / "c/s/n", results / "reports/c_s_n.html") == 0
    manifest = [
        {"series": "n", "modality": "ct", "kind": "volume", "accepted": True, "shape_zyx": [12, 36, 40]},
        {"series": "bad", "accepted": False, "reason": "gap", "detail": f"a slice is missing {HOSTILE}"},
        {"series": "late", "accepted": True},
    ]
    write_manifest(results / "c/s", manifest)
    write_manifest(results / "c/empty", [])
    (results / "c/unread/ingest").mkdir(parents=True)
    (results / "logs/c/s").mkdir(parents=True)
    (results / "logs/c/summary.log").write_text("")
    (results / "failures.tsv").write_text(
        "cohort\tstudy\tseries\tstage\tmessage\nc\tunread\t\tingest\t/scans/Doe_Jane: no series found; see /a/b.dcm\n"
    )
    assert main(["index", "--results", str(results), "--out", str(results / "index.html")]) == 0
    elements = Elements((results / "index.html").read_text(encoding="utf-8"))
    links = {attributes["href"] for tag, attributes in elements.tags if tag == "a"}
    assert "reports/c_s_n.html" in links
    assert all((results / link.partition("#")[0]).exists() for link in links)
    assert "reports/c_s_n.html#check-2" in links
    for words in (
        "RESEARCH ONLY", "1 series in 1 cohort, 4 not reconstructed", "31.5 dB", "+3.5 dB against TV", "12 slices",
        f"left out: a slice is missing {HOSTILE}", "the measure stage has left no result", "no image series was found",
        "ingest: (folder): no series found; see …/b.dcm",
    ):  # fmt: skip
        assert words in elements.text
    assert "Doe_Jane" not in elements.text
    assert all(a["src"].startswith("data:image/jpeg;base64,") for tag, a in elements.tags if tag == "img")


def test_index_of_nothing_is_a_page_and_of_no_folder_an_error(tmp_path, capsys):
    assert main(["index", "--results", str(tmp_path), "--out", str(tmp_path / "index.html")]) == 0
    assert "nothing to show yet" in (tmp_path / "index.html").read_text()
    assert main(["index", "--results", str(tmp_path / "none"), "--out", str(tmp_path / "i.html")]) == 1
    assert "is not a folder" in capsys.readouterr().err
