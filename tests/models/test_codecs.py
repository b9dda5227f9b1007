"""Codecs: bytes through pixels unchanged, and an autoencoder's posterior sampled by hand."""

import json

import pytest
import torch

from models.codecs import PixelCodec, VAECodec, latent_size, load_codec

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def vae():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.3,
    ).eval()


@pytest.fixture
def folder(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8, generator=generator)


def test_every_byte_survives_encoding_and_decoding():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(2, 3, 1, 1)
    codec = PixelCodec()
    encoded = codec.encode(images)
    assert (encoded.min().item(), encoded.max().item()) == (-1, 1)
    assert codec.decode(encoded).equal(images.permute(0, 2, 3, 1))


def test_bytes_are_127_5_x_plus_128_truncated_and_clamped():
    x = torch.tensor([-3.0, -1.0, -0.999, 0.0, 0.5, 0.9999, 1.0, 7.0]).reshape(1, 1, 2, 4)
    expected = [0, 0, 0, 128, 191, 255, 255, 255]
    decoded = PixelCodec(channels=1).decode(x)
    assert decoded.dtype == torch.uint8 and decoded.shape == (1, 2, 4, 1)
    assert decoded.flatten().tolist() == expected


def test_pixel_codec_keeps_size_and_channels():
    codec = load_codec("none", channels=1)
    assert (codec.name, codec.factor, codec.channels) == ("none", 1, 1)
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    assert codec.encode(images).shape == (2, 1, 28, 28)
    assert codec.encode(images).dtype == torch.float32


def test_latents_are_posterior_samples_times_the_scaling_factor(vae, folder, images):
    codec = load_codec(str(folder))
    draws = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    latents = codec.encode(images, draws)
    with torch.no_grad():
        moments = vae.quant_conv(vae.encoder(images.float() / 127.5 - 1))
    mean, log_variance = moments.chunk(2, dim=1)
    std = (log_variance.clamp(-30, 20) / 2).exp()
    torch.testing.assert_close(latents, 0.3 * (mean + std * draws))
    assert codec.noise_shape(tuple(images.shape[1:])) == (4, 8, 8)


def test_encoding_in_bf16_is_off_by_its_rounding_alone(folder, images):
    """Three significant digits of the mean's own spread, and decoding is what it was."""
    exact, rounded = VAECodec(str(folder)), VAECodec(str(folder), bf16=True)
    mean, std = exact.moments(images).unbind(1)
    for value, there in ((mean, 0), (std, 1)):
        error = (rounded.moments(images)[:, there] - value).square().mean().sqrt()
        assert 0 < error < 0.02 * value.square().mean().sqrt()
    assert rounded.moments(images).dtype == torch.float32
    assert torch.equal(rounded.decode(mean), exact.decode(mean))


def test_decoding_undoes_the_scaling_factor_and_gives_bytes(vae, folder):
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    decoded = VAECodec(str(folder)).decode(0.3 * z)
    with torch.no_grad():
        pixels = vae.decoder(vae.post_quant_conv(z))
    expected = (127.5 * pixels + 128).clamp(0, 255).permute(0, 2, 3, 1)
    assert decoded.dtype == torch.uint8 and decoded.shape == (2, 16, 16, 3)
    # rounding of z / 0.3 * 0.3 may move a value across an integer
    assert (decoded - expected.floor()).abs().max() <= 1
    assert (decoded == expected.floor()).float().mean() > 0.99


def test_autoencoder_says_its_size_and_is_frozen(folder):
    codec = VAECodec(str(folder))
    assert (codec.factor, codec.channels) == (2, 4)
    assert codec.name == str(folder.resolve())
    assert not codec.vae.training
    assert not any(parameter.requires_grad for parameter in codec.vae.parameters())


def test_latent_side_is_the_image_side_over_the_factor(folder):
    codec = VAECodec(str(folder))
    assert latent_size(16, codec) == 8
    assert latent_size(28, PixelCodec()) == 28
    with pytest.raises(ValueError, match=r"--image-size 15 .*divisible by 2.*multiple of 2"):
        latent_size(15, codec)
    for size in (0, -4):
        with pytest.raises(ValueError, match=f"--image-size {size}"):
            latent_size(size, PixelCodec())


def break_config(folder):
    (folder / "config.json").write_text("{")


def widen_config(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"latent_channels": 8}))


BREAKAGES = {
    "no config": lambda folder: (folder / "config.json").unlink(),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "config that is not JSON": break_config,
    "config of other sizes": widen_config,
    "half of the weights": lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:9999]),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_what_cannot_be_loaded_is_refused_by_name(breakage, folder):
    BREAKAGES[breakage](folder)
    with pytest.raises(ValueError) as error:
        load_codec(str(folder))
    assert f"--vae {folder}" in str(error.value) and "cannot load" in str(error.value)


def test_pickled_weights_are_not_executed(folder):
    class Touch:
        def __reduce__(self):
            return open, (str(folder / "executed"), "w")

    (folder / WEIGHTS).unlink()
    torch.save({"conv_in.weight": Touch()}, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot load"):
        load_codec(str(folder))
    assert not (folder / "executed").exists()
