"""The compared methods as runs of train.py: their flags, resuming, processes, and checkpoints."""

import dataclasses

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from launching import TINY_DIGITS, check_runs, needs_shards
from PIL import Image

import train
from data.feature_cache import read_settings
from models.checkpoint_file import read_checkpoint
from models.encoders import PatchEncoder
from sampling.run import Sampling
from sampling.sample_config import ODE
from scripts.cache_features import FeatureConfig
from scripts.cache_features import main as cache_features
from scripts.cache_latents import CacheConfig
from scripts.cache_latents import main as cache_latents
from training.building import build_network
from training.checkpoint import save_checkpoint
from training.checks import check_train_config
from training.config import EngineConfig, OptimConfig, SaveConfig, TrainConfig
from training.methods.dispersive import DispersiveConfig
from training.methods.layer_sync import layer_sync_settings
from training.methods.repa import REPAConfig
from training.methods.schedule import RegScheduleConfig
from training.methods.sra import SRAConfig
from training.speed import MEASURED
from training.tracking import read_log

METHODS = ["dispersive", "sra", "repa", "repa+layer_sync"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with random weights for timm's test transformer, whose patches are 16 x 16."""
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("encoder") / "vit.pth"
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    return str(path)


@pytest.fixture
def config(tmp_path, weights):
    """config(loss_type, **changes): a run on the digits."""

    def make(loss_type, **changes):
        repa = REPAConfig(repa_encoder="test_vit", repa_encoder_weights=weights)
        common = dict(loss_type=loss_type, run_name="run", results_dir=str(tmp_path))
        common |= dict(repa=repa) if "repa" in loss_type else {}
        return dataclasses.replace(TINY_DIGITS, **(common | changes))

    return make


def values(folder):
    """Return what a run logged, without the speed."""
    rows = read_log(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in rows]


def run(config):
    """Train in this process; returns (what it logged, its last checkpoint)."""
    training = train.Training(config)
    assert training.run() == 0
    path = training.folder / "checkpoints" / f"{training.step:07d}.pt"
    return values(training.folder), read_checkpoint(path)


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(map(equal, a, b)) if isinstance(a, list) else a == b


@pytest.mark.parametrize("loss_type", METHODS)
def test_a_resumed_run_is_bit_identical(config, tmp_path, loss_type):
    optim = OptimConfig(lr=1e-2, warmup_steps=3, max_grad_norm=1.0, ema_decay=0.5)
    whole = config(loss_type, optim=optim, saving=SaveConfig(ckpt_every=2))
    logged, state = run(whole)
    assert state.keys() >= {"heads", "heads_opt"} or loss_type == "dispersive"
    half = str(tmp_path / "run" / "checkpoints" / "0000002.pt")
    resumed, again = run(dataclasses.replace(whole, run_name="resumed", resume=half))
    assert resumed == logged[2:]
    assert all(equal(state[key], again[key]) for key in state.keys() - {"config"})


@pytest.mark.parametrize("loss_type", ["sra", "repa"])
def test_heads_learn_and_stay_out_of_the_network(config, tmp_path, loss_type):
    _, after = run(config(loss_type))
    before = train.Training(config(loss_type, run_name="start")).update.heads.modules.state_dict()
    assert before.keys() == after["heads"].keys()
    assert not any(torch.equal(before[key], after["heads"][key]) for key in before)
    network = build_network(after["arch"], 0).state_dict()
    assert after["model"].keys() == after["ema"].keys() == network.keys()
    named = {key.rsplit(".", 1)[0] for key in after["opt"]["state"]}
    assert not any("loss" in name for name in named)
    sampled = ODE(
        ckpt=str(tmp_path / "run" / "checkpoints" / "0000004.pt"), out=str(tmp_path / "x.npz"),
        num_fid_samples=2, per_proc_batch_size=2, num_sampling_steps=3, sampling_method="euler",
    )  # fmt: skip
    sampling = Sampling(sampled)
    sampling.parts.check()
    sampling.parts.prepare()
    sampling.run(0, 1)
    assert (tmp_path / "x.npz").exists()


def test_a_checkpoint_without_heads_is_refused(config, tmp_path):
    _, state = run(config("sra"))
    path = tmp_path / "bare.pt"
    save_checkpoint(path, {key: state[key] for key in state if not key.startswith("heads")})
    with pytest.raises(ValueError, match="without heads, heads_opt, so a run cannot be continued"):
        train.Training(config("sra", run_name="again", resume=str(path)))


def test_the_gradient_norm_and_clipping_are_of_network_and_heads_together(config):
    """After one step Adam's first moments are 0.1 times the clipped gradients."""
    optim = OptimConfig(max_grad_norm=1e-3)
    training = train.Training(config("sra", optim=optim, max_steps=1))
    training.run()
    optimizers = [training.update.optimizer, *training.update.heads.optimizers]
    moments = [s["exp_avg"].flatten() for opt in optimizers for s in opt.state.values()]
    assert torch.cat(moments).norm().item() == pytest.approx(1e-4, rel=1e-3)
    heads = [s["exp_avg"].flatten() for s in training.update.heads.optimizers[0].state.values()]
    assert torch.cat(heads).norm() > 1e-6


@pytest.mark.parametrize("loss_type", ["sra", "repa"])
def test_accumulation_changes_rounding_only(config, loss_type):
    plain, _ = run(config(loss_type))
    parts = EngineConfig(accumulation_steps=4)
    in_parts, _ = run(config(loss_type, run_name="parts", engine=parts))
    for a, b in zip(plain, in_parts, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_the_dispersive_loss_is_that_of_each_pass(config):
    """The batch is two parts of two samples each; the blocks are the identity at the start."""
    whole, _ = run(config("dispersive", max_steps=1, global_batch_size=4))
    engine = EngineConfig(accumulation_steps=2)
    halves, _ = run(
        config("dispersive", max_steps=1, global_batch_size=4, run_name="parts", engine=engine)
    )
    assert whole[0]["velocity_loss"] == pytest.approx(halves[0]["velocity_loss"], rel=1e-5)
    assert whole[0]["dispersive_loss"] < halves[0]["dispersive_loss"] < 0
    with pytest.raises(ValueError, match=r"--global-batch-size 4: .* which are 1 here"):
        train.Training(
            config(
                "dispersive",
                run_name="one",
                global_batch_size=4,
                engine=EngineConfig(accumulation_steps=4),
            )
        )


@needs_shards
def test_two_processes_are_one_process(config, tmp_path):
    """SRA sharded and clipped, REPA with DDP and accumulation."""
    clipped = OptimConfig(lr=1e-2, max_grad_norm=1.0)
    runs = {
        "sra": (config("sra", optim=clipped), EngineConfig(fsdp=True)),
        "repa": (config("repa"), EngineConfig(accumulation_steps=2)),
    }
    two = [dataclasses.replace(c, engine=e, run_name=f"{k}2") for k, (c, e) in runs.items()]
    check_runs(tmp_path, two, processes=2)
    for name, (settings, _) in runs.items():
        alone, state = run(dataclasses.replace(settings, run_name=f"{name}1"))
        for a, b in zip(alone, values(tmp_path / f"{name}2"), strict=True):
            assert a == pytest.approx(b, rel=5e-4)
        path = tmp_path / f"{name}2" / "checkpoints" / "0000004.pt"
        there = read_checkpoint(path)
        assert there["heads"].keys() == state["heads"].keys()
        for key, value in state["heads"].items():
            torch.testing.assert_close(there["heads"][key], value, rtol=1e-2, atol=1e-3)
        # and what two processes wrote, one continues
        run(dataclasses.replace(settings, run_name=f"{name}3", resume=str(path), max_steps=5))


def test_both_methods_read_the_same_block(config):
    """At the first step, which is the same for all: LayerSync's student is REPA's block too."""
    repa = dataclasses.replace(config("repa").repa, repa_depth=2)
    (both,), _ = run(config("repa+layer_sync", repa=repa, max_steps=1, run_name="both"))
    (alone,), _ = run(config("repa", repa=repa, max_steps=1, run_name="alone"))
    (sync,), _ = run(config("layer_sync", max_steps=1, run_name="sync"))
    assert both["repa_loss"] == alone["repa_loss"] and both["sync_loss"] == sync["sync_loss"]
    assert both["loss"] == pytest.approx(alone["loss"] + 0.3 * sync["sync_loss"], rel=1e-6)


@pytest.fixture
def any_precision():
    """accelerate keeps a process's first precision."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.parametrize("loss_type", ["dispersive", "sra", "repa+layer_sync"])
def test_bf16_autocast_changes_rounding_only(config, any_precision, loss_type):
    """At the first step, which both precisions start from the same weights."""
    (whole,), _ = run(config(loss_type, max_steps=1))
    AcceleratorState._reset_state()
    bf16 = EngineConfig(precision="bf16")
    (half,), _ = run(config(loss_type, max_steps=1, run_name="half", engine=bf16))
    assert half["loss"] != whole["loss"]
    for name, value in whole.items():
        assert half[name] == pytest.approx(value, rel=0.05, abs=5e-3), name


def test_a_pair_can_be_watched_without_acting_on_it(config):
    plain, _ = run(config("sra"))
    watched, _ = run(config("sra", run_name="on", encoder_depth=2, gt_encoder_depth=5))
    assert all(row.pop("similarity_2_5") and row.pop("sync_loss") for row in watched)
    assert watched == plain


@pytest.fixture
def photos(tmp_path):
    """Settings for four colour images of 16 x 16 pixels: 8 x 8 tokens, so 8 x 8 patches of 16."""
    for i in range(4):
        folder = tmp_path / "data" / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    data = dict(data_path=str(tmp_path / "data"), dataset_name=None, num_classes=2)
    return data | dict(image_size=16, global_batch_size=2)


def test_repa_encodes_as_many_patches_as_there_are_tokens(config, photos):
    training = train.Training(config("repa", **photos, max_steps=1))
    training.run()
    encoder = training.objective.regularizers[0].features.encoder
    head = training.update.heads.modules["repa_loss"]
    assert encoder.size == (128, 128) and head[4].out_features == 64


@pytest.fixture
def features(tmp_path, weights, photos):
    """A cache of the photos' features, made in two goes: as if killed between them."""
    made = FeatureConfig(
        out=str(tmp_path / "features"), data_path=photos["data_path"], image_size=16, side=8,
        encoder="test_vit", encoder_weights=weights, batch_size=1, num_workers=0,
    )  # fmt: skip
    encode = PatchEncoder.forward
    calls = []

    def killed(self, images):
        calls.append(images)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PatchEncoder, "forward", killed)
        with pytest.raises(SystemExit, match="130"):
            cache_features(made)
    with pytest.raises(ValueError, match=r"no complete cache of scripts/cache_features\.py"):
        read_settings(tmp_path / "features")
    cache_features(made)
    assert sorted(p.name for p in (tmp_path / "features").iterdir()) == [
        "features.npy", "manifest.json",
    ]  # fmt: skip
    return made.out


def cached(folder, **changes):
    return REPAConfig(**(dict(repa_encoder="test_vit", repa_features=folder) | changes))


def test_cached_features_are_those_of_the_images(config, photos, features):
    """Two epochs, so that each image and most mirrors are seen; float16 is the difference."""
    fly, _ = run(config("repa", **photos, run_name="fly"))
    read, _ = run(config("repa", **photos, run_name="read", repa=cached(features)))
    for a, b in zip(fly, read, strict=True):
        assert a == pytest.approx(b, rel=2e-3)


def test_features_of_something_else_are_refused(config, tmp_path, photos, features):
    def start(repa, **changes):
        train.Training(config("repa", **(photos | changes), repa=repa, run_name="other"))

    with pytest.raises(ValueError, match="of something else: encoder test_vit there, test_vit2 h"):
        start(cached(features, repa_encoder="test_vit2"))
    with pytest.raises(ValueError, match="something else: side 8 there, 4 here"):
        start(cached(features), model="SiT-S/4")
    with pytest.raises(ValueError, match="no complete cache"):
        start(cached(str(tmp_path)))
    (tmp_path / "data" / "class0" / "0.png").rename(tmp_path / "data" / "class0" / "9.png")
    with pytest.raises(ValueError, match=r"source_fingerprint .* there"):
        start(cached(features))


def test_latents_need_features_of_the_same_images(config, tmp_path, photos, features):
    from diffusers import AutoencoderKL

    vae = str(tmp_path / "vae")
    AutoencoderKL(
        block_out_channels=(8,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        latent_channels=4,
        norm_num_groups=4,
    ).save_pretrained(vae)
    out = str(tmp_path / "latents")
    made = dict(data_path=photos["data_path"], vae=vae, image_size=16, dtype="float32")
    cache_latents(CacheConfig(out=out, num_workers=0, **made))
    latents = photos | dict(data_path=out, vae=vae)
    with pytest.raises(ValueError, match="holds latents, and REPA's encoder sees images; give --r"):
        train.Training(config("repa", **latents, max_steps=2))
    fly, _ = run(config("repa", **(photos | dict(vae=vae)), run_name="fly"))
    read, _ = run(config("repa", **latents, run_name="read", repa=cached(features)))
    for a, b in zip(fly, read, strict=True):
        assert a == pytest.approx(b, rel=2e-3)


def test_defaults_are_the_papers():
    c = TrainConfig()
    assert c.sra == SRAConfig(0.2, 0.05, 0.2) and c.dispersive == DispersiveConfig(0.25, 1.0)
    assert c.sra.depths("SiT-XL/2") == (8, 20) and c.sra.depths("SiT-B/2") == (3, 8)
    assert c.repa.repa_weight == 0.5
    assert c.repa.depth("SiT-XL/2") == 8 and c.repa.depth("SiT-B/2") == 4
    assert c.dispersive.depth("SiT-XL/2") == 28
    assert layer_sync_settings(TrainConfig(loss_type="repa")) == ([], 0)
    assert layer_sync_settings(TrainConfig(loss_type="repa+layer_sync")) == ([(8, 16)], 0.2)


def test_names_of_runs_say_the_method_its_blocks_and_weight(config):
    def name(loss_type, **changes):
        return train.Training(config(loss_type, run_name=None, **changes)).folder.name

    assert name("sra") == "SiT-Ti-2-sra-2-5-lambda0.2-digits-8px-seed0"
    assert name("dispersive") == "SiT-Ti-2-dispersive-8-lambda0.25-digits-8px-seed0"
    both = "SiT-Ti-2-repa+layer_sync-2-5-lambda0.3-3-lambda0.5-digits-8px-seed0"
    assert name("repa+layer_sync") == both


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        (
            "--dispersive-tau 0.5: it has no effect with --loss-type layer_sync",
            dict(dispersive=DispersiveConfig(dispersive_tau=0.5)),
        ),
        (
            "--sra-weight 1: it has no effect with --loss-type repa",
            dict(loss_type="repa", sra=SRAConfig(sra_weight=1)),
        ),
        (
            "--repa-encoder-weights x: it has no effect with --loss-type vanilla",
            dict(loss_type="vanilla", repa=REPAConfig(repa_encoder_weights="x")),
        ),
        (
            "--reg-weight 0.5: it has no effect with --loss-type sra; its own is --sra-weight",
            dict(loss_type="sra", reg_weight=0.5),
        ),
        (
            "--dispersive-weight 0: it must be positive",
            dict(loss_type="dispersive", dispersive=DispersiveConfig(dispersive_weight=0)),
        ),
        (
            "--diagnose-every 5 needs a pair to look at: with --loss-type sra, give --encoder-d",
            dict(loss_type="sra", diagnose_every=5),
        ),
        (
            "--repa-encoder-weights has no effect with --repa-features",
            dict(loss_type="repa", repa=REPAConfig(repa_encoder_weights="x", repa_features="y")),
        ),
        (
            "--repa-features: streamed images have no numbers",
            dict(loss_type="repa", repa=REPAConfig(repa_features="y"), streaming=True),
        ),
        (
            "--reg-cutoff-step 5: it has no effect with --loss-type sra",
            dict(loss_type="sra", reg_schedule=RegScheduleConfig(reg_cutoff_step=5)),
        ),
        (
            "--sra-shift 2: it must be in",
            dict(loss_type="sra", sra=SRAConfig(sra_shift=2)),
        ),
    ],
)
def test_flags_without_effect_and_wrong_values_are_refused(message, changes):
    with pytest.raises(ValueError, match=message):
        check_train_config(TrainConfig(**changes))


@pytest.mark.parametrize(
    ("message", "loss_type", "changes"),
    [
        ("--dispersive-depth 9: SiT-Ti/2 has blocks 1 to 8", "dispersive",
         dict(dispersive=DispersiveConfig(dispersive_depth=9))),
        ("--sra-student-depth 6 lies behind --sra-teacher-depth 5", "sra",
         dict(sra=SRAConfig(sra_student_depth=6))),
        ("--repa-depth 0: SiT-Ti/2 has blocks 1 to 8", "repa",
         dict(repa=REPAConfig(repa_depth=0))),
        ("--repa-encoder-weights gone.pth: no such file", "repa",
         dict(repa=REPAConfig(repa_encoder_weights="gone.pth"))),
    ],
)  # fmt: skip
def test_what_the_model_or_the_disk_does_not_have_is_refused(config, message, loss_type, changes):
    with pytest.raises(ValueError, match=message):
        train.Training(config(loss_type, **changes))


def test_a_checkpoint_from_before_these_methods_is_continued(config, tmp_path):
    _, state = run(config("vanilla", max_steps=1))
    for name in ("dispersive", "sra", "repa"):
        del state["config"][name]
    save_checkpoint(tmp_path / "old.pt", state)
    run(config("vanilla", run_name="on", max_steps=2, resume=str(tmp_path / "old.pt")))
