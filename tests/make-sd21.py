#!/usr/bin/env python3
"""make-sd21.py OUT - writes a diffusers folder of Stable Diffusion 2.1's sizes with random f16 weights, 2.6 GB.

For measurements of memory and loading time, which do not depend on the values; pictures from it are noise. Needs
nothing but Python 3. CLIP's vocabulary is taken from models/clip-tokenizer beside this script's folder.
"""
import argparse
import json
import math
import os
import random
import shutil
import struct
import sys

UNET = [320, 640, 1280, 1280]
VAE = [128, 256, 512, 512]
CONTEXT = 1024  # width of the text states
TEXT_LAYERS, TEXT_FF, VOCABULARY = 23, 4096, 49408


def linear(out, name, rows, cols, bias=True):
    out[name + ".weight"] = [rows, cols]
    if bias:
        out[name + ".bias"] = [rows]


def conv(out, name, rows, cols, size):
    out[name + ".weight"] = [rows, cols, size, size]
    out[name + ".bias"] = [rows]


def norm(out, name, width):
    out[name + ".weight"] = [width]
    out[name + ".bias"] = [width]


def resnet(out, name, cols, rows, time=0):
    norm(out, name + ".norm1", cols)
    conv(out, name + ".conv1", rows, cols, 3)
    if time:
        linear(out, name + ".time_emb_proj", rows, time)
    norm(out, name + ".norm2", rows)
    conv(out, name + ".conv2", rows, rows, 3)
    if cols != rows:
        conv(out, name + ".conv_shortcut", rows, cols, 1)


def transformer(out, name, width):
    norm(out, name + ".norm", width)
    linear(out, name + ".proj_in", width, width)
    block = name + ".transformer_blocks.0"
    for attention, context in (("attn1", width), ("attn2", CONTEXT)):
        linear(out, f"{block}.{attention}.to_q", width, width, False)
        linear(out, f"{block}.{attention}.to_k", width, context, False)
        linear(out, f"{block}.{attention}.to_v", width, context, False)
        linear(out, f"{block}.{attention}.to_out.0", width, width)
    for i in (1, 2, 3):
        norm(out, f"{block}.norm{i}", width)
    linear(out, block + ".ff.net.0.proj", 8 * width, width)
    linear(out, block + ".ff.net.2", width, 4 * width)
    linear(out, name + ".proj_out", width, width)


def unet():
    out, last, time = {}, len(UNET) - 1, 4 * UNET[0]
    linear(out, "time_embedding.linear_1", time, UNET[0])
    linear(out, "time_embedding.linear_2", time, time)
    conv(out, "conv_in", UNET[0], 4, 3)
    skips, width = [UNET[0]], UNET[0]
    for i, rows in enumerate(UNET):
        for j in range(2):
            resnet(out, f"down_blocks.{i}.resnets.{j}", width, rows, time)
            if i < last:
                transformer(out, f"down_blocks.{i}.attentions.{j}", rows)
            width = rows
            skips.append(width)
        if i < last:
            conv(out, f"down_blocks.{i}.downsamplers.0.conv", width, width, 3)
            skips.append(width)
    for j in range(2):
        resnet(out, f"mid_block.resnets.{j}", width, width, time)
    transformer(out, "mid_block.attentions.0", width)
    for i, rows in enumerate(reversed(UNET)):
        for j in range(3):
            resnet(out, f"up_blocks.{i}.resnets.{j}", width + skips.pop(), rows, time)
            if i > 0:
                transformer(out, f"up_blocks.{i}.attentions.{j}", rows)
            width = rows
        if i < last:
            conv(out, f"up_blocks.{i}.upsamplers.0.conv", width, width, 3)
    norm(out, "conv_norm_out", width)
    conv(out, "conv_out", 4, width, 3)
    return out


def vae_middle(out, name, width):
    for j in range(2):
        resnet(out, f"{name}.mid_block.resnets.{j}", width, width)
    norm(out, f"{name}.mid_block.attentions.0.group_norm", width)
    for projection in ("to_q", "to_k", "to_v", "to_out.0"):
        linear(out, f"{name}.mid_block.attentions.0.{projection}", width, width)


def vae():
    out, last, width = {}, len(VAE) - 1, VAE[0]
    conv(out, "encoder.conv_in", width, 3, 3)
    for i, rows in enumerate(VAE):
        for j in range(2):
            resnet(out, f"encoder.down_blocks.{i}.resnets.{j}", width, rows)
            width = rows
        if i < last:
            conv(out, f"encoder.down_blocks.{i}.downsamplers.0.conv", width, width, 3)
    vae_middle(out, "encoder", width)
    norm(out, "encoder.conv_norm_out", width)
    conv(out, "encoder.conv_out", 8, width, 3)
    conv(out, "quant_conv", 8, 8, 1)
    conv(out, "post_quant_conv", 4, 4, 1)
    conv(out, "decoder.conv_in", width, 4, 3)
    vae_middle(out, "decoder", width)
    for i, rows in enumerate(reversed(VAE)):
        for j in range(3):
            resnet(out, f"decoder.up_blocks.{i}.resnets.{j}", width, rows)
            width = rows
        if i < last:
            conv(out, f"decoder.up_blocks.{i}.upsamplers.0.conv", width, width, 3)
    norm(out, "decoder.conv_norm_out", width)
    conv(out, "decoder.conv_out", 3, width, 3)
    return out


def text_encoder():
    out = {"text_model.embeddings.token_embedding.weight": [VOCABULARY, CONTEXT],
           "text_model.embeddings.position_embedding.weight": [77, CONTEXT]}
    for i in range(TEXT_LAYERS):
        layer = f"text_model.encoder.layers.{i}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(out, f"{layer}.self_attn.{projection}", CONTEXT, CONTEXT)
        norm(out, layer + ".layer_norm1", CONTEXT)
        norm(out, layer + ".layer_norm2", CONTEXT)
        linear(out, layer + ".mlp.fc1", TEXT_FF, CONTEXT)
        linear(out, layer + ".mlp.fc2", CONTEXT, TEXT_FF)
    norm(out, "text_model.final_layer_norm", CONTEXT)
    return out


CONFIGS = {
    "model_index.json": {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"]},
    "scheduler/scheduler_config.json": {
        "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "v_prediction", "set_alpha_to_one": False,
        "steps_offset": 1, "clip_sample": False},
    "unet/config.json": {
        "_class_name": "UNet2DConditionModel", "in_channels": 4, "out_channels": 4, "sample_size": 96,
        "block_out_channels": UNET, "layers_per_block": 2, "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": CONTEXT, "use_linear_projection": True, "norm_num_groups": 32, "norm_eps": 1e-5,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "flip_sin_to_cos": True, "freq_shift": 0, "act_fn": "silu"},
    "vae/config.json": {
        "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 4, "sample_size": 768,
        "block_out_channels": VAE, "layers_per_block": 2, "norm_num_groups": 32, "act_fn": "silu",
        "scaling_factor": 0.18215, "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4},
    "text_encoder/config.json": {
        "architectures": ["CLIPTextModel"], "vocab_size": VOCABULARY, "hidden_size": CONTEXT, "hidden_act": "gelu",
        "intermediate_size": TEXT_FF, "num_hidden_layers": TEXT_LAYERS, "num_attention_heads": 16,
        "max_position_embeddings": 77, "layer_norm_eps": 1e-5, "projection_dim": 512, "bos_token_id": 0,
        "eos_token_id": 2},
}

PARTS = {"unet/diffusion_pytorch_model.safetensors": unet,
         "vae/diffusion_pytorch_model.safetensors": vae,
         "text_encoder/model.safetensors": text_encoder}


def noise(size):
    """size bytes (even) of f16 values of either sign from 0.004 to 0.03, the same in every run."""
    raw = bytearray(random.Random(1).randbytes(size))
    # High bytes, of sign, exponent and two bits of the fraction: 2^-8 (0x1c) to 1.75 2^-6 (0x27).
    raw[1::2] = raw[1::2].translate(bytes(b & 0x80 | 0x1c + b % 12 for b in range(256)))
    return bytes(raw)


def write_part(path, shapes, pool):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(shapes):
        size = 2 * math.prod(shapes[name])
        header[name] = {"dtype": "F16", "shape": shapes[name], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, at, len(pool)):
            f.write(pool[:at - start])
    return at


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("out", help="folder to make; must not exist")
    a = p.parse_args()
    tokenizer = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models", "clip-tokenizer")
    os.makedirs(a.out)
    for name, config in CONFIGS.items():
        os.makedirs(os.path.dirname(os.path.join(a.out, name)), exist_ok=True)
        with open(os.path.join(a.out, name), "w", encoding="utf-8") as f:
            json.dump(config, f, indent=2)
    shutil.copytree(tokenizer, os.path.join(a.out, "tokenizer"))
    pool = noise((32 << 20) + 4096)
    total = sum(write_part(os.path.join(a.out, name), shapes(), pool) for name, shapes in PARTS.items())
    print(f"{a.out}: {total / 1e9:.2f} GB")


if __name__ == "__main__":
    sys.exit(main())
