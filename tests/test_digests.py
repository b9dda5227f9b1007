"""Recorded losses, samples and caches are reproduced; the comparison of two trees finds changes."""

import copy
import json
from pathlib import Path

import pytest
from launching import check

from scripts.digest_jobs import SPEEDS
from scripts.digests import compare, print_table

STORED = json.loads((Path(__file__).parent / "golden" / "digests.json").read_text())
TOLERANCE = 1e-4  # processors and versions round differently


def check_same_numbers(new, old, where: str) -> None:
    """Compare every number that was recorded, hashes left out."""
    if isinstance(old, dict):
        for name in old.keys() - {"sha256", "versions", "weights_sha256"}:
            check_same_numbers(new[name], old[name], f"{where}, {name}")
    elif old is None or isinstance(old, str):
        assert new == old, where
    else:  # of a list every element
        assert new == pytest.approx(old, rel=TOLERANCE), where


@pytest.mark.slow
def test_recorded_numbers_are_reproduced(tmp_path):
    check("scripts/digests.py", "--quick", "--record", tmp_path / "now.json")
    now = json.loads((tmp_path / "now.json").read_text())
    assert list(now["rows"]) == now["quick"] == STORED["quick"]
    for row in STORED["quick"]:
        check_same_numbers(now["rows"][row], STORED["rows"][row], row)


def test_every_loss_type_is_recorded_on_images_and_latents():
    from training.config import TrainConfig

    (losses,) = [f.type for f in TrainConfig.__dataclass_fields__.values() if f.name == "loss_type"]
    for loss in losses.__args__:
        for data in ("digits", "latents"):
            assert len(STORED["rows"][f"losses {data} {loss}"]["loss"]) == 20


def test_columns_that_differ_from_run_to_run_are_left_out():
    from training.speed import MEASURED

    assert set(MEASURED) <= set(SPEEDS)


def altered(change) -> dict:
    rows = copy.deepcopy(STORED["rows"])
    change(rows)
    return compare(STORED["rows"], rows)


def test_equal_results_are_the_same(capsys):
    assert print_table(altered(lambda rows: None)) == 0
    assert "differs" not in capsys.readouterr().out


def test_the_last_bit_of_one_loss_is_found(capsys):
    def change(rows):
        rows["losses digits sra"]["velocity_loss"][7] = 1.5

    table = altered(change)
    old = STORED["rows"]["losses digits sra"]["velocity_loss"][7]
    assert table.pop("losses digits sra") == f"velocity_loss 7: {old} and 1.5"
    assert set(table.values()) == {None}
    assert print_table(altered(change)) == 1
    assert f"differs  velocity_loss 7: {old} and 1.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "row", "how"),
    [
        (lambda rows: rows.pop("evaluation"), "evaluation", "only in the old tree"),
        (lambda rows: rows.update(more={}), "more", "only in the new tree"),
        (lambda rows: rows.update(evaluation={"failed": "exit code 2: no"}), "evaluation", "exit"),
        (lambda rows: rows["ODE labels"].update(sha256="0"), "ODE labels", "sha256"),
        (lambda rows: rows["evaluation"].pop("pixel_recall"), "evaluation", "pixel_recall: only"),
    ],
)
def test_what_is_missing_or_failed_differs(change, row, how):
    table = altered(change)
    assert table[row].startswith(how)
    assert {value for name, value in table.items() if name != row} == {None}


def test_files_that_name_other_versions_are_not_compared():
    def change(rows):
        rows["ODE file"] = {"sha256": "0", "versions": {"layersync": "9"}}

    table = altered(change)
    assert "ODE file" not in table and set(table.values()) == {None}
    assert altered(lambda rows: rows["ODE file"].update(sha256="0"))["ODE file"] is not None
