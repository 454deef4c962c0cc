#!/usr/bin/env python3
"""eval_same.py REFERENCE PICTURES FEATURES - FID, precision and recall of two folders of PNGs of one size, by transformers, NumPy and SciPy, beside
what `add-cl eval -r REFERENCE -f FEATURES PICTURES` says. FEATURES: a folder with image_encoder/ in DINOv2's form, as method clip writes it, of
the pictures' size. Needs torch, transformers, scipy, pillow, and add-cl (in ADD_CL, or found by its name)."""
import glob
import json
import os
import subprocess
import sys

import numpy as np
import scipy.linalg
import torch
from PIL import Image
from transformers import Dinov2Model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def features(net, folder):
    """Class tokens after the final norm, a row a picture; transparent ones on white."""
    rows = []
    for p in sorted(glob.glob(folder + "/**/*.png", recursive=True)):
        im = Image.open(p).convert("RGBA")
        white = Image.new("RGBA", im.size, (255, 255, 255, 255))
        white.alpha_composite(im)
        x = (np.asarray(white.convert("RGB")) / 255 - MEAN) / STD
        rows.append(net(torch.tensor(x).float().permute(2, 0, 1)[None]).pooler_output[0].double().numpy())
    return np.stack(rows)


def fid(a, b):
    (m, s), (n, t) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b))
    return ((m - n) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(scipy.linalg.sqrtm(s @ t)).real


def share(a, b, k=3):
    """Of rows of b within the ball of a row of a to its k-th nearest other one."""
    d = np.sqrt(((a[:, None] - a) ** 2).sum(2))
    radius = np.sort(d, 1)[:, k]
    return np.mean([(((a - x) ** 2).sum(1) <= radius ** 2).any() for x in b])


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    ref, made, dir = sys.argv[1:]
    with torch.no_grad():
        net = Dinov2Model.from_pretrained(os.path.join(dir, "image_encoder")).eval()
        a, b = features(net, ref), features(net, made)
    own = json.loads(subprocess.run([os.environ.get("ADD_CL", "add-cl"), "eval", "-r", ref, "-f", dir, made, "--json"], stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])
    for name, value in ("fid", fid(a, b)), ("precision", share(a, b)), ("recall", share(b, a)):
        print(f"{name:10} add-cl {own[name]:.6f}   here {value:.6f}   difference {abs(own[name] - value):.2g}")


if __name__ == "__main__":
    main()
