"""Settings of a sampling run: absurd numbers are refused by name, sensible ones are not."""

import pytest

from sampling.recipe import weights_name
from sampling.sample_config import ODE, SDE, check_sample_config

BAD = {
    "--atol 1e-300: it must be at least 1e-12": ODE(atol=1e-300),
    "--rtol 10000000000.0: it must be at most": ODE(rtol=1e10),
    "--num-sampling-steps 100000000000000000000: it must be at most": ODE(
        num_sampling_steps=10**20
    ),
    "--num-sampling-steps 1: it must be at least 2, the ends": ODE(num_sampling_steps=1),
    "--num-classes 1000000000000: it must be at most": ODE(num_classes=10**12),
    "--global-seed 18446744073709551616: it must be less": ODE(global_seed=2**64),
    "--global-seed -1: it must be at least 0": ODE(global_seed=-1),
    "--cfg-scale inf": ODE(cfg_scale=float("inf")),
    "--cfg-scale nan: it must be at least 1, which": ODE(cfg_scale=float("nan")),
    "--cfg-scale 0.5: it must be at least 1, which": ODE(cfg_scale=0.5),
    "--per-proc-batch-size 10000000000000: it must": ODE(per_proc_batch_size=10**13),
    "--num-fid-samples 0: it must be at least 1": ODE(num_fid_samples=0),
    "--image-size 1000000: it must be at most": ODE(image_size=10**6),
    "--sample-eps 0.7: it must be in": ODE(sample_eps=0.7),
    "--diffusion-norm -1.0: it must be": SDE(diffusion_norm=-1.0),
    "--last-step-size 1.5: it must be": SDE(last_step_size=1.5),
}


@pytest.mark.parametrize("message", BAD)
def test_absurd_numbers_are_refused(message):
    with pytest.raises(ValueError, match=message):
        check_sample_config(BAD[message])


def test_what_is_used_is_accepted():
    for config in (
        ODE(atol=1e-9, rtol=1e-9, num_sampling_steps=1000, cfg_scale=15, global_seed=2**63 - 1),
        SDE(num_sampling_steps=2, last_step_size=0.0, last_step=None, diffusion_norm=2.5),
    ):
        check_sample_config(config)


@pytest.mark.parametrize(
    ("step", "ckpt", "name"),
    [
        (400, "results/run/checkpoints/0000400.pt", "SiT-XL-2-0000400"),
        (None, "SiT-XL-2-256x256.pt", "SiT-XL-2-256x256"),
        (None, "weights/repa_last.pt", "SiT-XL-2-repa_last"),
        (None, "sit-xl-2", "sit-xl-2"),
    ],
)
def test_sets_are_named_after_the_step_or_the_original_file(step, ckpt, name):
    assert weights_name("SiT-XL-2", step, ckpt) == name
