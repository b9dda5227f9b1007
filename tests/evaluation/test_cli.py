"""python -m evaluation: what it prints, writes and refuses."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from launching import ROOT, check, run
from PIL import Image

from evaluation import Evaluator
from evaluation.__main__ import main
from evaluation.options import MetricOptions
from evaluation.pixel_scores import load_images, pixel_metrics
from evaluation.results import COLUMNS, append_line, markdown_table, read_lines


def test_real_digits_score_as_real():
    digits = load_images("digits")
    metrics = pixel_metrics(digits, digits)
    assert metrics["pixel_frechet"] == pytest.approx(0, abs=1e-6)
    assert metrics["pixel_precision"] == metrics["pixel_recall"] == 1
    assert 8 < metrics["classifier_score"] <= 10 and metrics["label_agreement"] > 0.98


def test_noise_and_wrong_labels_score_worse():
    images, labels, _ = digits = load_images("digits")
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    metrics = pixel_metrics((noise, np.roll(labels, 1), None), digits)
    assert metrics["pixel_frechet"] > 5 and metrics["pixel_precision"] < 0.1
    assert metrics["label_agreement"] < 0.3


def test_prints_and_writes_scores_with_the_recipe(tmp_path):
    images, labels, _ = load_images("digits")
    recipe = json.dumps({"seed": 4})
    np.savez(tmp_path / "s.npz", arr_0=images[:300], labels=labels[:300], recipe=recipe)
    printed = check("-m", "evaluation", tmp_path / "s.npz", "--ref", "digits")
    record = json.loads((tmp_path / "s.metrics.json").read_text())
    assert record["recipe"] == {"seed": 4}
    assert record["counts"] == {"samples": 300, "reference": 1797}
    assert "not FID" in record["note"] and "not FID" in printed
    for name, value in record["metrics"].items():
        assert name in printed and f"{value:.4f}" in printed


def test_greys_in_files_score_as_the_same_array(tmp_path, monkeypatch):
    """As `sample_ddp.py --save-png` leaves them, beside the .npz."""
    images = load_images("digits")[0][:64]
    np.savez(tmp_path / "set.npz", arr_0=images)
    for folder, mode in (("set", "L"), ("colours", "RGB")):
        (tmp_path / folder).mkdir()
        for i, image in enumerate(images):
            path = tmp_path / folder / f"{i:06d}.png"
            Image.fromarray(image[..., 0]).convert(mode).save(path)
    scores = []
    for name in ("set.npz", "set"):
        out = tmp_path / f"{name}.json"
        here(monkeypatch, tmp_path / name, "--ref", "digits", "--out", out)
        scores.append(json.loads(out.read_text())["metrics"])
    assert scores[0] == scores[1] and scores[0]["pixel_precision"] == 1
    out = tmp_path / "back.json"  # and as a reference
    here(monkeypatch, tmp_path / "set.npz", "--ref", tmp_path / "set", "--pixels", "--out", out)
    assert json.loads(out.read_text())["metrics"]["pixel_frechet"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(SystemExit):
        here(monkeypatch, tmp_path / "colours", "--ref", "digits")


def test_an_error_is_one_line(tmp_path):
    done = run("-m", "evaluation", tmp_path / "none.npz", "--ref", "digits", real=True)
    assert done.returncode == 2
    assert done.stderr.strip() == f"python -m evaluation: error: {tmp_path}/none.npz: no such file"


def here(monkeypatch, *args):
    """The command in this process, where networks can be replaced."""
    monkeypatch.setattr("sys.argv", [str(ROOT / "evaluation" / "__main__.py"), *map(str, args)])
    main()


def refused(monkeypatch, capsys, *args) -> str:
    with pytest.raises(SystemExit) as exit:
        here(monkeypatch, *args)
    assert exit.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("python -m evaluation: error: ") and text.count("\n") == 1
    return text


@pytest.fixture
def files(tmp_path, images):
    """samples.npz with a recipe, ref.npz of the same size, other.npz of another."""
    recipe = {"model": "SiT-B/2", "solver": {"sampling_method": "heun2"}, "nfe": {"mean": 498.0}}
    np.savez(tmp_path / "samples.npz", arr_0=images(40, 1), recipe=json.dumps(recipe))
    np.savez(tmp_path / "ref.npz", images(50, 2), np.arange(50) % 5)
    np.savez(tmp_path / "other.npz", images(50, 2, size=16))
    return tmp_path


def test_scores_are_printed_and_kept(files, monkeypatch, capsys, tiny_networks):
    here(monkeypatch, files / "samples.npz", "--ref", files / "ref.npz", "--bootstrap", 3)
    printed = capsys.readouterr().out
    record = json.loads((files / "samples.metrics.json").read_text())
    assert f"{record['metrics']['fid']:.3f}   95%: " in printed
    assert "40 images of 12x12" in printed and "ref.npz: 50 images" in printed
    digest = hashlib.sha256((files / "ref.npz").read_bytes()).hexdigest()
    assert record["reference"]["sha256"] == digest and digest[:12] in printed
    assert record["recipe"]["nfe"] == {"mean": 498.0}
    assert record["protocol"]["pr_dtype"] == "float16" and record["count"] == 40
    (line,) = read_lines(files / "results.csv")
    assert line["fid"] == f"{record['metrics']['fid']:.6g}" and line["solver"] == "heun2"


def test_a_folder_scores_as_its_npz(files, monkeypatch, tiny_networks, images):
    (files / "samples").mkdir()
    for i, image in enumerate(images(40, 1)):
        Image.fromarray(image).save(files / "samples" / f"{i:06d}.png")
    for name in ("samples.npz", "samples"):
        out = files / f"{name}.json"
        here(monkeypatch, files / name, "--ref", files / "ref.npz", "--out", out)
    records = [json.loads((files / f"{n}.json").read_text()) for n in ("samples.npz", "samples")]
    assert records[0]["metrics"] == records[1]["metrics"]
    assert len(read_lines(files / "results.csv")) == 2


def test_table_of_results(files, monkeypatch, capsys, tiny_networks):
    for dtype in ("float16", "float32", "float32"):
        here(monkeypatch, files / "samples.npz", "--ref", files / "ref.npz", "--pr-dtype", dtype)
    capsys.readouterr()
    here(monkeypatch, "table", files / "results.csv")
    header, rule, row = capsys.readouterr().out.splitlines()  # the same evaluation is one row
    assert [cell.strip() for cell in header.split("|")[1:8]] == [
        "samples", "images", "FID", "sFID", "Inception Score", "precision", "recall",
    ]  # fmt: skip
    assert "KID" not in header and len(header) == len(rule) == len(row)
    fid = json.loads((files / "samples.metrics.json").read_text())["metrics"]["fid"]
    assert f"| {fid:.3f}" in row and "| heun2" in row


def test_sets_of_one_name_and_arrays_of_one_file_have_rows_of_their_own(
    files, monkeypatch, capsys, tiny_networks, images
):
    """As samples.npz in the folders of two runs, which share a --results."""
    results = ("--ref", files / "ref.npz", "--results", files / "all.csv")
    for scale in (1.5, 4.0):
        (files / str(scale)).mkdir()
        monkeypatch.chdir(files / str(scale))
        recipe = json.dumps({"cfg_scale": scale})
        np.savez("s.npz", arr_0=images(40, 1), other=images(40, 2), recipe=recipe)
        here(monkeypatch, "s.npz", *results)
    here(monkeypatch, "s.npz", "--array", "other", *results)
    rows = markdown_table(read_lines(files / "all.csv")).splitlines()[2:]
    names = [(row.split("|")[1].strip(), "1.5" in row) for row in rows]
    assert names == [("s.npz", True), ("s.npz", False), ("s.npz[other]", False)]


def test_scores_of_a_folder_whose_name_is_not_utf8_are_kept(tmp_path, monkeypatch):
    """They were lost after all the work, when they were to be written."""
    images = load_images("digits")[0][:80]
    folder = os.path.join(os.fsencode(tmp_path), b"set\xff")
    os.mkdir(folder)
    for i, image in enumerate(images):
        with open(os.path.join(folder, b"%02d.png" % i), "wb") as file:
            Image.fromarray(image[..., 0]).save(file, "PNG")
    (tmp_path / "results.csv").write_text("samples,images,reference_sha256\n")  # lacks columns
    for _ in range(2):
        here(monkeypatch, os.fsdecode(folder), "--ref", "digits")
    with open(folder + b".metrics.json") as file:
        assert json.load(file)["counts"]["samples"] == 80
    lines = read_lines(tmp_path / "results.csv")
    assert [line["samples"].endswith(r"set\udcff") for line in lines] == [True, True]


def test_lines_of_many_processes_are_all_there(tmp_path):
    path = tmp_path / "results.csv"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: append_line(path, {"samples": f"{i}.npz"}), range(50)))
    assert sorted(line["samples"] for line in read_lines(path)) == sorted(
        f"{i}.npz" for i in range(50)
    )


def test_bad_input_is_refused_before_any_work(files, monkeypatch, capsys, tiny_networks):
    samples, ref = files / "samples.npz", files / "ref.npz"

    def fail(*args):
        raise AssertionError("work had begun")

    monkeypatch.setattr("evaluation.features.FeaturePass.add", fail)
    (files / "bad.csv").write_text("a,b\n")
    (files / "0000001.pt").write_bytes(b"weights")
    before = {path: path.read_bytes() for path in files.iterdir()}
    np.savez(files / "three.npz", np.zeros((3, 12, 12, 3), np.uint8))
    np.savez(files / "gray.npz", np.zeros((9, 12, 12, 1), np.uint8))
    for message, args in {
        "holds images of 12x12 and the reference": [samples, "--ref", files / "other.npz"],
        "none.npz: no such file": [samples, "--ref", files / "none.npz"],
        "--array NAME chooses another": [samples, "--ref", ref, "--array", "images"],
        "--fid-at needs 41": [samples, "--ref", ref, "--fid-at", 41],
        "--fid-at 1: it must be": [samples, "--ref", ref, "--fid-at", 1],
        "--bootstrap 1: must be": [samples, "--ref", ref, "--bootstrap", 1],
        "samples.npz has none": [samples, "--ref", ref, "--per-class"],
        "without --fd-dinov2": [samples, "--ref", ref, "--dinov2-weights", "x"],
        "--dinov2-model is of no use": [samples, "--ref", ref, "--dinov2-model", "x"],
        "--batch-size 10000000000: it must be": [samples, "--ref", ref, "--batch-size", 10**10],
        "ref.npz: what is there is no record": [samples, "--ref", ref, "--out", ref],
        "samples.npz: what is there is no": [samples, "--ref", ref, "--out", samples],
        "0000001.pt: what is there is no": [samples, "--ref", ref, "--out", files / "0000001.pt"],
        "where a folder is needed": [samples, "--ref", ref, "--out", samples / "x.json"],
        "it is a folder, where a file": [samples, "--ref", ref, "--out", files],
        "no regular file but a device": [samples, "--ref", ref, "--out", "/dev/full"],
        "--results /dev/null: it is no": [samples, "--ref", ref, "--results", "/dev/null"],
        "it is --results too": [samples, "--ref", ref, "--out", "o", "--results", "o"],
        "/proc/x/s.json: nothing can be written in /proc": [
            samples,
            "--ref",
            ref,
            "--out",
            "/proc/x/s.json",
        ],
        "bad.csv: not a results file": [samples, "--ref", ref, "--results", files / "bad.csv"],
        "3 images, precision and recall needs 4": [files / "three.npz", "--ref", ref],
        "one channel, Inception needs RGB": [files / "gray.npz", "--ref", ref],
    }.items():
        assert message in refused(monkeypatch, capsys, *args)
    assert {path: path.read_bytes() for path in before} == before


# --- pixel space


@pytest.fixture
def digits(tmp_path):
    """Two sets of digits in one .npz, the second by the name `second`."""
    images = load_images("digits")[0]
    np.savez(tmp_path / "s.npz", arr_0=images[:60], second=images[60:130], recipe='{"seed": 4}')
    return tmp_path


FLAGS = [
    ["--kid"], ["--bootstrap", 3], ["--fid-at", 5], ["--per-class"], ["--fd-dinov2"],
    ["--pr-dtype", "float32"], ["--inception-weights", "x"], ["--dinov2-model", "x"],
]  # fmt: skip


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: flags[0])
def test_flags_that_cannot_act_in_pixel_space_are_refused(digits, monkeypatch, capsys, flags):
    said = refused(monkeypatch, capsys, digits / "s.npz", "--ref", "digits", *flags)
    assert f"{' '.join(map(str, flags))}: it has no effect in pixel space" in said
    assert [path.name for path in digits.iterdir()] == ["s.npz"]


def test_pixel_scores_take_the_array_and_add_a_line(digits, monkeypatch, capsys):
    here(monkeypatch, digits / "s.npz", "--ref", "digits", "--array", "second")
    record = json.loads((digits / "s.metrics.json").read_text())
    assert record["counts"]["samples"] == 70 and record["samples"]["array"] == "second"
    (line,) = read_lines(digits / "results.csv")
    assert line["pixel_frechet"] == f"{record['metrics']['pixel_frechet']:.6g}"
    assert (line["images"], line["seed"], line["reference"]) == ("70", "4", "digits")
    assert line["fid"] == "" and line["reference_sha256"] == record["reference"]["sha256"]
    assert "results.csv" in capsys.readouterr().out
    here(monkeypatch, "table", digits / "results.csv")
    assert "pixel_frechet" in capsys.readouterr().out
    said = refused(monkeypatch, capsys, "digits", "--ref", "digits", "--array", "second")
    assert "--array second: digits is no .npz" in said


OLD = [name for name in COLUMNS if not name.startswith(("pixel_", "classifier", "label_"))]


def test_results_of_an_older_version_are_read_and_added_to(tmp_path):
    path = tmp_path / "results.csv"
    old = ["old.npz", "9", "1.5", *[""] * (len(OLD) - 3)]
    path.write_bytes(f"{','.join(OLD)}\r\n{','.join(old)}\r\n".encode())
    append_line(path, {"samples": "new.npz", "fid": "2.5", "pixel_frechet": None})
    assert path.read_bytes().startswith(
        ",".join(OLD).encode() + b"\r\n"
    )  # nothing asks for more columns
    append_line(path, {"samples": "small.npz", "pixel_frechet": "3.5"})
    lines = read_lines(path)
    assert [line["samples"] for line in lines] == ["old.npz", "new.npz", "small.npz"]
    assert [line["fid"] for line in lines] == ["1.5", "2.5", ""]
    assert [line["pixel_frechet"] for line in lines] == ["", "", "3.5"]
    assert "small.npz" in markdown_table(lines)


def test_old_and_new_lines_at_once_are_all_there(tmp_path):
    """The file is replaced by the first line with a new column, while others wait for it."""
    path = tmp_path / "results.csv"
    path.write_text(",".join(OLD) + "\r\n")
    names = [f"{i}.npz" for i in range(40)]
    with ThreadPoolExecutor(8) as threads:
        for result in [
            threads.submit(append_line, path, {"samples": name, "pixel_recall": name[0]})
            for name in names
        ]:
            result.result()
    lines = read_lines(path)
    assert sorted(line["samples"] for line in lines) == sorted(names)
    assert all(line["pixel_recall"] == line["samples"][0] for line in lines)


def test_a_line_after_one_that_a_killed_process_left_half_is_a_line(tmp_path):
    path = tmp_path / "results.csv"
    append_line(path, {"samples": "a.npz"})
    path.write_bytes(path.read_bytes().rstrip(b"\r\n")[:-3])
    append_line(path, {"samples": "b.npz"})
    assert [line["samples"] for line in read_lines(path)] == ["a.npz", "b.npz"]


def test_two_processes_score_as_one(tmp_path, images, tiny_networks):
    samples, sizes = images(7, 1), {"": tiny_networks.sizes["pool"], "_s": 5}
    stored = {f"mu{key}": np.ones(size) for key, size in sizes.items()}
    stored |= {f"sigma{key}": np.eye(size) for key, size in sizes.items()}
    np.savez_compressed(tmp_path / "samples.npz", samples)
    np.savez(tmp_path / "ref.npz", arr_0=images(4, 2), **stored)
    words = tmp_path / "samples.npz", "--ref", tmp_path / "ref.npz", "--batch-size", 2
    check("tests/tiny_network.py", *words, processes=2)
    record = json.loads((tmp_path / "samples.metrics.json").read_text())
    assert record["protocol"]["processes"] == 2
    expected = Evaluator(str(tmp_path / "ref.npz")).evaluate([samples])
    assert record["metrics"] == pytest.approx(expected.metrics, rel=1e-6)
    assert {"fid", "sfid", "inception_score", "precision", "recall"} <= record["metrics"].keys()


@pytest.mark.slow
def test_two_processes_score_as_one_with_inception(tmp_path, images, inception_weights):
    """With Inception itself, its features and their numbers of dimensions."""
    samples, sizes = images(7, 1), {"": 2048, "_s": 2023}
    stored = {f"mu{key}": np.ones(size) for key, size in sizes.items()}
    stored |= {f"sigma{key}": np.eye(size) for key, size in sizes.items()}
    np.savez_compressed(tmp_path / "samples.npz", samples)
    np.savez(tmp_path / "ref.npz", arr_0=images(4, 2), **stored)
    check(
        "-m", "evaluation", tmp_path / "samples.npz", "--ref", tmp_path / "ref.npz",
        "--inception-weights", inception_weights, "--batch-size", 2, processes=2,
    )  # fmt: skip
    record = json.loads((tmp_path / "samples.metrics.json").read_text())
    assert record["protocol"]["processes"] == 2
    evaluator = Evaluator(str(tmp_path / "ref.npz"), MetricOptions(inception_weights))
    expected = evaluator.evaluate([samples])
    assert record["metrics"] == pytest.approx(expected.metrics, rel=1e-6)
    assert any("weights are not the published ones" in w for w in expected.warnings)
