import pytest

from benchmarks import privacy_cost


def test_each_level_of_noise_has_a_row_with_what_it_costs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("opacus")
    monkeypatch.setattr(privacy_cost, "PER_IMAGE", (1.0,))
    monkeypatch.setattr(privacy_cost, "PER_UPDATE", (0.1, 10.0))
    privacy_cost.main(
        ["--dataset", "phantom_axial", "--seeds", "1", "--rounds", "1", "--images", "8"]
    )
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:6]]
    assert [row[:2] for row in cells] == [
        ["none", "–"],
        ["one image (DP-SGD)", "1"],
        ["whole update", "0.1"],
        ["whole update", "10"],
    ]
    assert cells[0][2] == "no limit"
    assert float(cells[2][2]) > float(cells[3][2]) > 0 and float(cells[1][2]) > 0
    assert all(0 <= float(row[3]) <= 100 for row in cells)
