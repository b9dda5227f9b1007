"""The regularisers that --loss-type names, as the settings describe them."""

from collections.abc import Callable
from functools import partial

import numpy as np
from torch import nn

from data.feature_cache import CachedFeatures, data_of
from data.order import StepBatches
from models.encoders import PatchEncoder, load_vision_transformer
from runtime.randomness import HEADS
from training.checks import layer_sync_settings
from training.config import REPAConfig, TrainConfig
from training.methods.comparisons import methods, with_depths
from training.methods.dispersive import DispersiveRegularizer
from training.methods.layer_sync import LayerSyncRegularizer
from training.methods.repa import EncodedPatches, REPARegularizer
from training.methods.sra import SRARegularizer
from training.objective import Regularizer
from transport import Transport


def pretrained_encoder(c: REPAConfig) -> nn.Module:
    return load_vision_transformer(
        c.repa_encoder, c.repa_encoder_weights, "--repa-encoder", "--repa-encoder-weights"
    )


def make_regularizers(
    config: TrainConfig,
    last_step: int,
    network: nn.Module,
    ema: nn.Module,
    transport: Transport,
    source,
    accelerator,
    load_encoder: Callable[[REPAConfig], nn.Module] = pretrained_encoder,
) -> list[Regularizer]:
    """Those that --loss-type names, on the accelerator's device.

    `ValueError` for blocks that the network does not have, and for what the data cannot give.
    """
    config, made = with_depths(config), []
    pairs, weight = layer_sync_settings(config)
    if pairs:
        mean = partial(accelerator.reduce, reduction="mean")
        schedule = config.reg_schedule, last_step
        made.append(LayerSyncRegularizer(network, pairs, weight, *schedule, mean))
    seed = int(np.random.SeedSequence((HEADS, config.global_seed)).generate_state(1)[0])
    for name in methods(config):
        if name == "dispersive":
            made.append(DispersiveRegularizer(network, config.dispersive))
        elif name == "sra":
            autocast = accelerator.autocast
            made.append(SRARegularizer(network, ema, transport, config.sra, seed, autocast))
        else:
            if config.repa.repa_features:
                features = cached_features(config, network, source)
            else:
                encoder = patch_encoder(config, network, source, load_encoder)
                encoder = encoder.to(accelerator.device)
                features = EncodedPatches(encoder, source.mirrors, accelerator.autocast)
            made.append(REPARegularizer(network, features, config.repa, seed))
    return made


def cached_features(config: TrainConfig, network: nn.Module, source) -> CachedFeatures:
    """REPA's features from a cache made of the run's images."""
    expected = dict(
        encoder=config.repa.repa_encoder,
        image_size=config.image_size,
        side=network.x_embedder.grid_size[0],
        **data_of(source),
    )
    sizes = len(source), config.global_batch_size
    batches = StepBatches(*sizes, config.global_seed, 0, 0, range(0))
    return CachedFeatures(config.repa.repa_features, expected, batches, source.mirrors)


def patch_encoder(config: TrainConfig, network: nn.Module, source, load_encoder) -> PatchEncoder:
    """REPA's, for as many patches as the network has tokens."""
    if source.latents:
        raise ValueError(
            f"--loss-type {config.loss_type}: --data-path {config.data_path} holds latents, and "
            f"REPA's encoder sees images; give --repa-features FOLDER, made of the same images by "
            f"scripts/cache_features.py, or the images themselves"
        )
    try:
        return PatchEncoder(load_encoder(config.repa), network.x_embedder.grid_size[0])
    except AttributeError as error:
        raise ValueError(f"--repa-encoder {config.repa.repa_encoder}: {error}") from None
