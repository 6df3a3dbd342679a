"""Write a base of your own: the folder that BASE= takes, in the layout of Hugging Face.

python examples/own_base.py own-base && make train EXP=clear2foggy BASE=examples/own_base.yaml

The weights of this one are random, so that it trains but draws nothing yet.  A base that is worth adapting is a
one-step text-to-image model: a VAE, a UNet that predicts noise at the schedule's last step, and a text encoder.
"""

import sys
from pathlib import Path

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from networks.one_step.bases import POCKET

WIDTHS = (16, 32, 32, 32)  # four levels: latents have an eighth of the image's sides


def main(folder: Path) -> None:
    """Write the parts."""
    tokenizer = CLIPTokenizer.from_pretrained(POCKET / "tokenizer")
    words = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKL(
        block_out_channels=WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * len(WIDTHS),
        up_block_types=("UpDecoderBlock2D",) * len(WIDTHS),
        norm_num_groups=8,
    )
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=words.hidden_size,  # what the text encoder gives
        use_linear_projection=True,
    )
    scheduler = DDPMScheduler.from_pretrained(POCKET / "scheduler")
    parts = {"vae": vae, "unet": unet, "text_encoder": CLIPTextModel(words), "tokenizer": tokenizer}
    for name, part in {**parts, "scheduler": scheduler}.items():
        part.save_pretrained(folder / name)
    print(f"Written to {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "own-base"))
