"""Settings of a sampling run from a file: a recipe's section, or the recipe of a set of samples.

    python sample_ddp.py --config other.npz --ckpt 0400000.pt --out mine.npz

The recipe of a set of samples lies in its .npz, beside its parts and pictures (recipe.json), and in
the metrics file of an evaluation. It names weights by their checksum, so --ckpt is given anew. No
torch here.
"""

from pathlib import Path

from runtime.settings_chain import Section

RENAMED = {
    "seed": "global_seed",
    "num_samples": "num_fid_samples",
    "batch_size": "per_proc_batch_size",
    "compiled": "compile",
}
SAME = (
    "weights", "vae", "path_type", "prediction", "sample_eps", "cfg_scale", "cfg_channels",
    "guidance_interval", "label_sampling",
)  # fmt: skip
WITHOUT_TF32 = ("float32", "bfloat16 (autocast), else float32")
"""Arithmetic on a GPU with --no-tf32, as a recipe calls it."""


def settings_of_samples(content: dict) -> dict | None:
    """Return the flags that make a set of samples again from its recipe; None for another file.

    The network's size and classes are left to the checkpoint, but for the classes of one without a
    null label, which does not tell them.
    """
    recipe = content.get("recipe", content)  # in the metrics of an evaluation
    if not isinstance(recipe, dict) or "weights_sha256" not in recipe:
        return None
    solver = recipe.get("solver")
    settings = dict(solver) if isinstance(solver, dict) else {}
    settings |= {key: recipe[key] for key in SAME if key in recipe}
    settings |= {flag: recipe[key] for key, flag in RENAMED.items() if key in recipe}
    if recipe.get("null_label") is False:
        settings["num_classes"] = recipe["num_classes"]
    dtype = str(recipe.get("dtype", ""))
    if recipe.get("device") == "cuda":
        settings["tf32"] = dtype not in WITHOUT_TF32
    return settings | {"bf16": dtype.startswith("bfloat16")}


def read_npz(path: Path) -> dict:
    """Read the recipe in a set of samples; `ValueError` for another file, `OSError` for none."""
    from sampling.stored_recipe import read_recipe

    path.stat()
    try:
        return read_recipe(path)
    except ValueError:
        raise ValueError(f"{path}: damaged, or without a recipe of sample_ddp.py") from None


SAMPLE_SECTION = Section(
    "sample", word="solver", from_record=settings_of_samples, readers=((".npz", read_npz),)
)
