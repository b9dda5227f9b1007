"""Flags that contradict one another, or that have no effect beside others."""

from itertools import cycle

from hostile.altered_settings import write
from hostile.row import IMAGES, LATENTS, ODE, PICTURE, RESUME, SDE, TRAIN, Row

FIRST_OF_TWO = {  # as torchrun describes it
    "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}  # fmt: skip
OTHER_LOSSES = {"dispersive": "dispersive", "sra": "sra", "repa": "repa"}  # and their weights
OF_ONE_LOSS = {  # flags of a method, and what is said of them beside another
    "--dispersive-weight 1": r"--dispersive-weight 1\.0: it has no effect with --loss",
    "--dispersive-tau 2": r"--dispersive-tau 2\.0: it has no effect with --loss",
    "--dispersive-depth 3": "--dispersive-depth 3: it has no effect with --loss",
    "--sra-weight 1": r"--sra-weight 1\.0: it has no effect with --loss",
    "--sra-beta 0.5": r"--sra-beta 0\.5: it has no effect with --loss",
    "--sra-student-depth 2": "--sra-student-depth 2: it has no effect with --loss",
    "--repa-weight 1": r"--repa-weight 1\.0: it has no effect with --loss",
    "--repa-depth 3": "--repa-depth 3: it has no effect with --loss",
    "--repa-encoder-weights w.pt": r"--repa-encoder-weights w\.pt: it has no effect with --loss",
    "--repa-features folder": "--repa-features folder: it has no effect with --loss",
}
OF_THE_SCHEDULE = {
    "--reg-warmup-steps 5": "--reg-warmup-steps 5: it has no effect with --loss",
    "--reg-cutoff-step 5": "--reg-cutoff-step 5: it has no effect with --loss",
    "--reg-power 3": r"--reg-power 3\.0: it has no effect with --loss",
    "--reg-scheduler linear": "--reg-scheduler linear: it has no effect with --loss",
    "--reg-similarity-threshold 0.5": r"-similarity-threshold 0\.5: it has no effect with --loss",
}
PAIRS = ("--multi-blocks-match", "[(2,4)]")


def training_rows() -> list[Row]:
    rows = []
    for loss, own in OTHER_LOSSES.items():
        words = f"{TRAIN} --loss-type {loss} --reg-weight 0.2"
        rows.append(
            Row(f"contradiction: lambda with {loss}", words,
                rf"--reg-weight 0\.2: it has no effect .*; its own is --{own}-weight")
        )  # fmt: skip
    for losses, table in (
        (("layer_sync", "vanilla"), OF_ONE_LOSS),
        (OTHER_LOSSES, OF_THE_SCHEDULE),
    ):
        rows += [
            Row(f"contradiction: {flags} with {loss}", f"{TRAIN} --loss-type {loss} {flags}", says)
            for loss, (flags, says) in zip(cycle(losses), table.items(), strict=False)
        ]
    return rows


ONE_BY_ONE = [
    # --- tracking, memory, precision
    *(
        Row(f"contradiction: --{flag} without wandb", f"{TRAIN} --{flag} mine",
            f"--{flag} has no effect without --wandb")
        for flag in ("wandb-project", "wandb-entity", "wandb-group", "wandb-tags")
    ),
    Row("contradiction: fsdp and a shared optimizer", f"{TRAIN} --fsdp --shard optimizer",
        "--fsdp means --shard all; give one"),
    *(
        Row(f"contradiction: --{flag} in {precision}",
            f"{TRAIN} --precision {precision} --{flag}",
            f"--{flag} needs --precision bf16; it is {precision}")
        for flag in ("bf16-weights", "bf16-residual") for precision in ("fp32", "tf32")
    ),
    # --- checkpoints
    Row("contradiction: keep-every alone", f"{TRAIN} --keep-every 2",
        "--keep-every has no effect without --keep-last"),
    Row("contradiction: best by a loss that is not held out", f"{TRAIN} --keep-best val_loss",
        "--keep-best val_loss needs --val-data-path"),
    *(
        Row(f"contradiction: best by {best} that is not computed", f"{TRAIN} --keep-best {best}",
            f"--keep-best {best} needs --eval-every N")
        for best in ("eval_fid", "eval_pixel_frechet")
    ),
    Row("contradiction: best by the FID of digits",
        f"{TRAIN} --keep-best eval_fid --eval-every 1 --eval-ref digits",
        "--eval-ref digits gives eval_pixel_frechet; name"),
    Row("contradiction: best by pixels of others",
        f"{TRAIN} --keep-best eval_pixel_frechet --eval-every 1 --eval-ref {{box}}/rgb.npz",
        r"--eval-ref \S+rgb\.npz gives eval_fid; name"),
    # --- blocks and their weight over time
    Row("contradiction: pairs for one pair", TRAIN,
        r"--multi-blocks-match \[\(2,4\)\] has no effect with --loss-type layer_sync",
        more=PAIRS),
    *(
        Row(f"contradiction: --{flag} for several pairs",
            f"{TRAIN} --loss-type multiple_sync --{flag} 3",
            f"--{flag} 3 has no effect with --loss-type multiple_sync", more=PAIRS)
        for flag in ("encoder-depth", "gt-encoder-depth")
    ),
    Row("contradiction: a constant weight decays", f"{TRAIN} --reg-decay-steps 9",
        "--reg-decay-steps 9 has no effect with --reg-scheduler constant"),
    Row("contradiction: a constant weight ends", f"{TRAIN} --reg-weight-end 0.1",
        r"--reg-weight-end 0\.1 has no effect with --reg-scheduler constant"),
    Row("contradiction: decay before the end of warm-up",
        f"{TRAIN} --reg-scheduler linear --reg-warmup-steps 9 --reg-decay-steps 9",
        "--reg-decay-steps 9: it must be more than --reg-warmup-steps"),
    Row("contradiction: the student behind the teacher",
        f"{TRAIN} --loss-type sra --sra-student-depth 5 --sra-teacher-depth 3",
        "--sra-student-depth 5 lies behind --sra-teacher-depth 3"),
    Row("contradiction: a diagnosis of no pair",
        f"{TRAIN} --loss-type vanilla --diagnose-every 5",
        "--diagnose-every 5 needs a pair to look at"),
    # --- time
    *(
        Row(f"contradiction: the {prediction} up to the end of time",
            f"{TRAIN} --loss-type vanilla --prediction {prediction} --sample-eps 0",
            f"sample_eps 0.*: with {prediction} prediction the drift is infinite")
        for prediction in ("noise", "score")
    ),
    # --- batches
    Row("contradiction: one sample to disperse",
        f"{TRAIN} --loss-type dispersive --global-batch-size 1",
        "--global-batch-size 1: the dispersive loss compares"),
    Row("contradiction: one sample a pass to disperse",
        f"{TRAIN} --loss-type dispersive --global-batch-size 4 --accumulation-steps 4",
        "sees in one pass, which are 1 here"),
    Row("contradiction: a batch of unequal parts",
        f"{TRAIN} --global-batch-size 9 --accumulation-steps 2",
        "--global-batch-size 9 is not divisible by the 1 processes x 2 accumulation steps"),
    # --- codecs
    Row("contradiction: pixels encoded in bf16", f"{TRAIN} --vae-bf16",
        "--vae-bf16 has no effect: --vae none encodes nothing"),
    Row("contradiction: latents encoded in bf16",
        f"{LATENTS} --data-path {{box}}/latents --vae-bf16",
        "--vae-bf16 has no effect: the data holds latents already"),
    Row("contradiction: greys through a codec of colours",
        TRAIN.replace("--vae none", "--vae {box}/vae"), "of 3 channels, the data has 1"),
    Row("contradiction: images that a codec cannot halve",
        f"{LATENTS} --data-path {{box}}/images".replace("size 16", "size 15"),
        r"--image-size 15 is not divisible by 2, the factor by which --vae \S+vae shrinks an"),
    # --- data
    *(
        Row(f"contradiction: --{flag} of no rows", f"{TRAIN} --{flag} {value}".rstrip(),
            f"--{flag}: --dataset-name digits is neither parquet files nor a data set of the hub")
        for flag, value in {"image-column": "a", "label-column": "a", "streaming": ""}.items()
    ),
    # --- REPA
    Row("contradiction: REPA's encoder for features that are there",
        f"{IMAGES} --data-path {{box}}/images --loss-type repa --repa-features {{here}}/f "
        "--repa-encoder-weights {box}/vit.pth",
        "--repa-encoder-weights has no effect with --repa-features"),
    Row("contradiction: REPA's features of a stream",
        f"{IMAGES} --dataset-name {{here}}/a.parquet --streaming --loss-type repa "
        "--repa-features {here}/f", "--repa-features: streamed images have no numbers"),
    Row("contradiction: REPA's encoder for latents",
        f"{LATENTS} --data-path {{box}}/latents --loss-type repa "
        "--repa-encoder vit_tiny_patch16_224 --repa-encoder-weights {box}/vit.pth",
        "holds latents, and REPA's encoder sees images"),
    Row("contradiction: probes of a stream",
        f"{IMAGES} --dataset-name {{here}}/a.parquet --streaming --probe-every 5",
        "--probe-every 5: streamed images cannot be chosen by class"),
    # --- files of settings
    Row("contradiction: config without a name", f"{TRAIN} --config", "--config: give it the name"),
    Row("contradiction: config of an empty name", f"{TRAIN} --config=", "--config: give it the na"),
    Row("contradiction: two configs", f"{TRAIN} --config a.toml --config=b.toml",
        r"--config is given 2 times \(a\.toml, b\.toml\)"),
    Row("contradiction: another solver than the config's", f"{ODE} --config {{here}}/c.toml",
        r"c\.toml: solver: it is SDE, not ODE: leave out ODE",
        write("c.toml", b'solver = "SDE"')),
    Row("contradiction: a setting of the other solver", f"{ODE} --config {{here}}/c.toml",
        r"c\.toml: diffusion-form: ODE has no such flag",
        write("c.toml", b'diffusion-form = "sigma"')),
    # --- sampling
    Row("contradiction: a preset of ODE for SDE", f"{SDE} --preset paper-ode-heun250",
        "--preset paper-ode-heun250 is for ODE, not SDE: leave out SDE"),
    Row("contradiction: a preset of SDE for ODE", f"{ODE} --preset sit-sde-em250",
        "--preset sit-sde-em250 is for SDE, not ODE: leave out ODE"),
    Row("contradiction: a last step of no length", f"{SDE} --last-step-size 0",
        r"last_step_size 0\.0: it must lie between 0 and 1; .* last_step None"),
    Row("contradiction: a last step from before the start",
        f"{SDE} --diffusion-form SBDM --sample-eps 0.4 --last-step-size 0.7",
        r"last_step_size 0\.7 and sample_eps 0\.4 leave nothing between t = 0\.4 and 0\.3: "),
    Row("contradiction: a picture of no classes", PICTURE.replace("--classes 1", "--classes"),
        r"--classes \(\): it must be one class or more"),
    Row("contradiction: a picture of another kind", PICTURE.replace("a.png", "a.jpg"),
        r"--out \S+a\.jpg: it must be the name of a \.png"),
    Row("contradiction: a picture by several processes", PICTURE,
        "start it with python, not torchrun", environment=FIRST_OF_TWO),
    Row("contradiction: a number of processes that nobody started", TRAIN,
        "has WORLD_SIZE=8, MASTER_PORT=29500 without RANK, LOCAL_RANK, MASTER_ADDR,",
        environment={"WORLD_SIZE": "8", "MASTER_PORT": "29500"}),
    Row("contradiction: a checkpoint by no name", ODE.replace("{box}/run/checkpoints/0000004.pt",
        "sit-xxl"), "checkpoint sit-xxl: no such file; short names are"),
    # --- going on
    Row("contradiction: more room than there is", f"{RESUME} --min-free-disk 1e6",
        "--min-free-disk 1e.06 GB must remain; make room, or keep fewer"),
]  # fmt: skip


def contradiction_rows() -> list[Row]:
    return [*training_rows(), *ONE_BY_ONE]
