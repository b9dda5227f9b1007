"""Transformers of other libraries, tiny: how each is built, called, and given to the regularisers.

docs/layersync.md holds `docs_table()`, and a test compares them.
"""

from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import torch

from layersync import CREPA, LayerSync


@dataclass(frozen=True)
class Input:
    """A forward argument, (2, *shape): normal, or integers below `high`."""

    shape: tuple[int, ...] = ()
    high: int = 0

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        if self.high:
            return torch.randint(self.high, (2, *self.shape), generator=generator)
        return torch.randn(2, *self.shape, generator=generator)


@dataclass(frozen=True)
class Constant:
    """A forward argument that is what it is."""

    value: Any

    def draw(self, generator: torch.Generator) -> Any:
        return self.value


def positions(tokens: int) -> Constant:
    """Flux' ids: (tokens, 3)."""
    return Constant(torch.arange(tokens * 3).reshape(tokens, 3) % 4)


TIME = Input((), high=1000)
TEXT = Input((5, 32))  # five text tokens
ALL_TEXT = Constant(torch.ones(2, 5, dtype=torch.bool))
IMAGE = Input((4, 8, 8))
VIDEO = Input((4, 2, 8, 8))  # channels, frames, height, width
MMDIT = {"hidden_states": IMAGE, "encoder_hidden_states": TEXT, "timestep": TIME}
HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}


@dataclass(frozen=True)
class Architecture:
    """One row: a model with the blocks `names`, of which `pair` is aligned on `tokens` tokens.

    `select` is Python source, so that the docs show what the tests run; in it, `n` is the number of
    tokens that stand before the others. So is `frames`, of videos: the names in it are those of the
    forward arguments.
    """

    family: str
    kind: str  # module.Class
    names: tuple[str, ...]
    tokens: int
    config: dict[str, Any]
    inputs: dict[str, Input | Constant]
    pair: tuple[int, int] = (2, 3)
    select: str = "None"
    n: int = 0
    frames: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def model(self) -> torch.nn.Module:
        """With weights from seed 0, none of them zero, and no dropout."""
        torch.manual_seed(0)
        module, _, name = self.kind.rpartition(".")
        config = {key: value() if callable(value) else value for key, value in self.config.items()}
        model = getattr(import_module(module), name)(**config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model

    def batch(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(1)
        return {name: given.draw(generator) for name, given in self.inputs.items()}

    def sync(self, model: torch.nn.Module) -> LayerSync:
        return LayerSync.from_names(
            model, self.names, [self.pair], select=self.selector(), **self.options
        )

    def crepa(self, model: torch.nn.Module, **options) -> CREPA:
        """Return CREPA for the videos of `batch`."""
        frames = eval(self.frames, self.batch())
        given = dict(width=32, frames=frames, select=self.selector(), **self.options)
        return CREPA.from_names(model, self.names, self.pair, **given | options)

    def selector(self):
        return eval(self.select, {"n": self.n})


def diffusers(family: str, name: str, *names: str, **rest) -> Architecture:
    return Architecture(family, f"diffusers.{name}", names, **rest)


ARCHITECTURES = [
    diffusers(
        "DiT",
        "DiTTransformer2DModel",
        "transformer_blocks.*",
        tokens=16,
        config=dict(**HEADS, in_channels=4, num_layers=4, sample_size=8, norm_num_groups=2),
        inputs=dict(hidden_states=IMAGE, timestep=TIME, class_labels=Input((), high=1000)),
    ),
    diffusers(
        "PixArt alpha and sigma",
        "PixArtTransformer2DModel",
        "transformer_blocks.*",
        tokens=16,
        config=dict(
            **HEADS,
            in_channels=4,
            num_layers=4,
            sample_size=8,
            norm_num_groups=2,
            cross_attention_dim=32,
            caption_channels=32,
            use_additional_conditions=False,
        ),
        inputs=dict(**MMDIT, added_cond_kwargs=Constant(dict(resolution=None, aspect_ratio=None))),
    ),
    diffusers(
        "Stable Diffusion 3",
        "SD3Transformer2DModel",
        "transformer_blocks.*",
        tokens=16,
        select="1",
        config=dict(
            **HEADS,
            in_channels=4,
            out_channels=4,
            num_layers=4,
            sample_size=8,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=8,
            pos_embed_max_size=8,
        ),
        inputs=dict(**MMDIT, pooled_projections=Input((8,))),
    ),
    diffusers(
        "Flux",
        "FluxTransformer2DModel",
        "transformer_blocks.*",
        "single_transformer_blocks.*",
        tokens=16,
        select="1",
        config=dict(
            **HEADS,
            in_channels=4,
            num_layers=2,
            num_single_layers=2,
            joint_attention_dim=32,
            pooled_projection_dim=8,
            axes_dims_rope=(4, 6, 6),
        ),
        inputs=dict(
            hidden_states=Input((16, 4)),
            encoder_hidden_states=TEXT,
            pooled_projections=Input((8,)),
            timestep=TIME,
            img_ids=positions(16),
            txt_ids=positions(5),
        ),
    ),
    diffusers(
        "AuraFlow",
        "AuraFlowTransformer2DModel",
        "joint_transformer_blocks.*",
        "single_transformer_blocks.*",
        tokens=16,
        select="lambda out: out[1] if isinstance(out, tuple) else out[:, n:]",
        n=13,  # and eight registers
        config=dict(
            **HEADS,
            in_channels=4,
            num_mmdit_layers=2,
            num_single_dit_layers=2,
            sample_size=8,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pos_embed_max_size=16,
        ),
        inputs=MMDIT,
    ),
    diffusers(
        "Qwen-Image",
        "QwenImageTransformer2DModel",
        "transformer_blocks.*",
        tokens=16,
        select="1",
        config=dict(
            **HEADS,
            in_channels=4,
            out_channels=1,
            num_layers=4,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
        ),
        inputs=dict(
            hidden_states=Input((16, 4)),
            encoder_hidden_states=TEXT,
            encoder_hidden_states_mask=ALL_TEXT,
            timestep=TIME,
            img_shapes=Constant([[(1, 4, 4)], [(1, 4, 4)]]),
        ),
    ),
    diffusers(
        "Sana",
        "SanaTransformer2DModel",
        "transformer_blocks.*",
        tokens=64,
        config=dict(
            **HEADS,
            in_channels=4,
            out_channels=4,
            num_layers=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=16,
            cross_attention_dim=32,
            caption_channels=32,
            sample_size=8,
        ),
        inputs=MMDIT,
    ),
    diffusers(
        "Lumina 2",
        "Lumina2Transformer2DModel",
        "layers.*",
        tokens=16,
        select="lambda out: out[:, n:]",
        n=5,
        config=dict(
            in_channels=4,
            hidden_size=32,
            num_layers=4,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=2,
            multiple_of=16,
            axes_dim_rope=(4, 6, 6),
            axes_lens=(8, 8, 8),
            cap_feat_dim=32,
        ),
        inputs=dict(**MMDIT, encoder_attention_mask=ALL_TEXT),
    ),
    diffusers(
        "Wan",
        "WanTransformer3DModel",
        "blocks.*",
        tokens=32,
        frames="hidden_states.shape[2]",
        config=dict(
            **HEADS,
            in_channels=4,
            out_channels=4,
            text_dim=32,
            freq_dim=16,
            ffn_dim=32,
            num_layers=4,
            rope_max_seq_len=32,
        ),
        inputs=dict(hidden_states=VIDEO, encoder_hidden_states=TEXT, timestep=TIME),
    ),
    diffusers(
        "HunyuanVideo",
        "HunyuanVideoTransformer3DModel",
        "transformer_blocks.*",
        "single_transformer_blocks.*",
        tokens=32,
        frames="hidden_states.shape[2]",
        select="0",
        config=dict(
            **HEADS,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_single_layers=2,
            num_refiner_layers=1,
            text_embed_dim=32,
            pooled_projection_dim=8,
            rope_axes_dim=(4, 6, 6),
            guidance_embeds=False,
        ),
        inputs=dict(
            hidden_states=VIDEO,
            encoder_hidden_states=TEXT,
            timestep=TIME,
            encoder_attention_mask=ALL_TEXT,
            pooled_projections=Input((8,)),
        ),
    ),
    diffusers(
        "LTX-Video",
        "LTXVideoTransformer3DModel",
        "transformer_blocks.*",
        tokens=32,
        frames="num_frames",
        config=dict(
            **HEADS,
            in_channels=4,
            out_channels=4,
            cross_attention_dim=32,
            num_layers=4,
            caption_channels=32,
        ),
        inputs=dict(
            hidden_states=Input((32, 4)),
            encoder_hidden_states=TEXT,
            timestep=TIME,
            encoder_attention_mask=ALL_TEXT,
            num_frames=Constant(2),
            height=Constant(4),
            width=Constant(4),
        ),
    ),
    diffusers(
        "CogVideoX",
        "CogVideoXTransformer3DModel",
        "transformer_blocks.*",
        tokens=32,
        frames="hidden_states.shape[1]",
        select="0",
        config=dict(
            **HEADS,
            in_channels=4,
            out_channels=4,
            time_embed_dim=16,
            text_embed_dim=32,
            num_layers=4,
            sample_width=8,
            sample_height=8,
            sample_frames=5,
            max_text_seq_length=5,
        ),
        inputs=dict(hidden_states=Input((2, 4, 8, 8)), encoder_hidden_states=TEXT, timestep=TIME),
    ),
    diffusers(
        "Mochi",
        "MochiTransformer3DModel",
        "transformer_blocks.*",
        tokens=32,
        frames="hidden_states.shape[2]",
        select="0",
        config=dict(
            **HEADS,
            num_layers=4,
            pooled_projection_dim=16,
            in_channels=4,
            text_embed_dim=32,
            time_embed_dim=16,
            max_sequence_length=8,
        ),
        inputs=dict(
            hidden_states=VIDEO,
            encoder_hidden_states=TEXT,
            timestep=TIME,
            encoder_attention_mask=ALL_TEXT,
        ),
    ),
    diffusers(
        "Stable Audio",
        "StableAudioDiTModel",
        "transformer_blocks.*",
        tokens=12,
        select="lambda out: out[:, n:]",
        n=1,  # the global condition
        config=dict(
            **HEADS,
            sample_size=12,
            in_channels=4,
            num_layers=4,
            num_key_value_attention_heads=1,
            out_channels=4,
            cross_attention_dim=32,
            time_proj_dim=16,
            global_states_input_dim=24,
            cross_attention_input_dim=32,
        ),
        inputs=dict(
            hidden_states=Input((4, 12)),
            timestep=TIME,
            encoder_hidden_states=TEXT,
            global_hidden_states=Input((1, 24)),
        ),
    ),
    Architecture(
        "MDM and other motion models",
        "torch.nn.TransformerEncoder",
        ("layers.*",),
        tokens=12,
        options=dict(batch_first=False),
        config=dict(
            encoder_layer=partial(torch.nn.TransformerEncoderLayer, 32, 2, 64), num_layers=4
        ),
        inputs=dict(src=Constant(torch.linspace(-1, 1, 12 * 2 * 32).sin().reshape(12, 2, 32))),
    ),
]


def cut_behind(block: torch.nn.Module) -> list[torch.Tensor | None]:
    """Start a new graph behind a block; return its leaves, which a forward pass appends."""
    leaves: list[torch.Tensor | None] = []

    def cut(module, arguments, output):
        several = output if isinstance(output, tuple) else (output,)
        leaves.extend(None if t is None else t.detach().requires_grad_() for t in several)
        return tuple(leaves) if isinstance(output, tuple) else leaves[0]

    block.register_forward_hook(cut)
    return leaves


def docs_table() -> str:
    """Return the Markdown table of families, their blocks, and what the regularisers are told."""
    head = ["family", "model", "names of the blocks", "options", "CREPA"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for arch in ARCHITECTURES:
        options = [] if arch.select == "None" else [f"`select={arch.select}`"]
        options += [f"`{name}={value}`" for name, value in arch.options.items()]
        names = ", ".join(f"`{name}`" for name in arch.names)
        frames = f"`frames={arch.frames}`" if arch.frames else ""
        cells = [arch.family, f"`{arch.kind}`", names, ", ".join(options), frames]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
