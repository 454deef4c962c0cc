#!/usr/bin/env python3
"""Does diffusers make the same picture? MODEL: a folder that add-cl wrote; PNG: what add-cl made of it, which tells how. Prints the
largest and the mean difference of values in 0..1. Needs torch, diffusers, transformers, pillow, numpy.

    python3 diffusers_same.py MODEL PNG
"""
import json
import sys

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

model, path = sys.argv[1:]
png = Image.open(path)
how = json.loads(png.text["add-cl"])
pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
pipe.set_progress_bar_config(disable=True)
image = pipe(how["prompt"], negative_prompt=how["negative_prompt"], num_inference_steps=how["steps"], guidance_scale=how["cfg_scale"],
             width=png.width, height=png.height, generator=torch.Generator().manual_seed(how["seed"]), output_type="np").images[0]
difference = np.abs(np.asarray(png.convert("RGB")).astype(np.float64) / 255 - image)
print(f"largest {difference.max():.5f}, mean {difference.mean():.5f}")
