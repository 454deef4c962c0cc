#!/usr/bin/env python3
"""add-cl beside PyTorch on the same networks, turn about in one run; prints seconds (minimum over all rounds) and ratios.

    python3 -m venv peers && peers/bin/pip install torch diffusers
    peers/bin/python bench/peers.py [--add-cl ./add-cl] [--type f32] [--rounds 3] [--peers f32,bf16] [CASE...]

Cases are those of `add-cl bench`: train_unet (the shipped model's UNet, batch 64, 24 tokens: forward, backward, clipping, AdamW,
EMA), unet and vae (Stable Diffusion 2.1's sizes, a 64x64 latent). A ratio below 1 means that add-cl takes less time. PyTorch runs
with channels last, random weights and, as bf16, under autocast with f32 weights.
"""
import argparse
import json
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def unet_step(torch):
    """Stable Diffusion 2.1's UNet on one 64x64 latent."""
    from diffusers import UNet2DConditionModel

    net = UNet2DConditionModel(sample_size=64, cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True)
    net = net.eval().to(memory_format=torch.channels_last)
    x, ctx = torch.randn(1, 4, 64, 64).to(memory_format=torch.channels_last), torch.randn(1, 77, 1024)

    def run():
        with torch.no_grad():
            net(x, 500, ctx)

    return run


def vae_decode(torch):
    """The decoder of Stable Diffusion's autoencoder, 512x512."""
    from diffusers import AutoencoderKL

    blocks = 4
    net = AutoencoderKL(block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * blocks,
                        up_block_types=("UpDecoderBlock2D",) * blocks, layers_per_block=2, latent_channels=4)
    net = net.eval().to(memory_format=torch.channels_last)
    z = torch.randn(1, 4, 64, 64).to(memory_format=torch.channels_last)

    def run():
        with torch.no_grad():
            net.decode(z)

    return run


def train_step(torch):
    """A training step of the shipped model's UNet."""
    from diffusers import UNet2DConditionModel

    with open(os.path.join(HERE, "../models/emoji-teacher/unet/config.json")) as f:
        net = UNet2DConditionModel.from_config(json.load(f))
    net = net.train().to(memory_format=torch.channels_last)
    parameters = list(net.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    x, target = (torch.randn(64, 4, 16, 16).to(memory_format=torch.channels_last) for _ in range(2))
    t, ctx = torch.randint(0, 1000, (64,)), torch.randn(64, 24, 128)

    def run():
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.mse_loss(net(x, t, ctx).sample.float(), target).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1e-3)

    return run


CASES = {"train_unet": train_step, "unet": unet_step, "vae": vae_decode}


def time_peer(case, dtype, reps):
    """In a process of its own: the seconds of one case, on standard output."""
    import torch

    torch.manual_seed(0)
    run = CASES[case](torch)
    best = float("inf")
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
        for k in range(reps + 1):  # the first one is to warm up
            begin = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - begin) if k else best
    print(json.dumps({"case": case, "seconds": best}))


def seconds(command):
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr[-1000:]}")
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return min(row["seconds"] for row in rows)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("cases", nargs="*", metavar="CASE", help=" ".join(CASES) + " (train_unet)")
    ap.add_argument("--add-cl", default="./add-cl", help="the program")
    ap.add_argument("--type", default="f32", help="add-cl's storage of weights")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--reps", type=int, default=2, help="repetitions of a peer in a round")
    ap.add_argument("--peers", default="f32,bf16", help="PyTorch's precisions")
    ap.add_argument("--run", nargs=2, metavar=("CASE", "TYPE"), help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.run:
        return time_peer(*a.run, a.reps)
    for case in a.cases or ["train_unet"]:
        if case not in CASES:
            ap.error(f"no case is called {case}")
        commands = {"add-cl": [a.add_cl, "bench", "--json", "--type", a.type, case]}
        for dtype in a.peers.split(","):
            commands[f"PyTorch {dtype}"] = [sys.executable, __file__, "--reps", str(a.reps), "--run", case, dtype]
        best = {side: float("inf") for side in commands}
        for _ in range(a.rounds):
            for side, command in commands.items():
                best[side] = min(best[side], seconds(command))
        mine = best["add-cl"]
        print(f"{case}: " + ", ".join(f"{s} {t:.3f} s" + (f" ({mine / t:.2f}x)" if s != "add-cl" else "") for s, t in best.items()))


if __name__ == "__main__":
    main()
