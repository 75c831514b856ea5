"""Copy the figures that the pages show from the folder of the demo, reduced in size and colours.

    python docs/pictures.py

Requires `make demo` and the commands of corpora.md (captions) and inference.md (timeline).
page.png is a screenshot of `make page` at a width of 1280 pixels.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

PICTURES = Path(__file__).parent / "pictures"
DRAWN = {
    "captions": "captions.png",
    "confusion": "results/paraclap-synthetic.png",
    "timeline": "timelines/0000_joined.png",
}
WIDTH = 1200  # px
COLOURS = 64


def shrink(source: Path, target: Path, colours: int = COLOURS) -> int:
    """Write a copy of at most `WIDTH` pixels in few colours; return its size in bytes."""
    with Image.open(source) as picture:
        small = picture.convert("RGB")
    if small.width > WIDTH:
        small = small.resize((WIDTH, round(small.height * WIDTH / small.width)), Image.LANCZOS)
    target.parent.mkdir(parents=True, exist_ok=True)
    few = small.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(target, optimize=True)
    return target.stat().st_size


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="folder of the demo")
    parser.add_argument("-o", "--output", type=Path, default=PICTURES, help="folder of the copies")
    options = parser.parse_args(arguments)
    for name, source in DRAWN.items():
        size = shrink(options.demo / source, options.output / f"{name}.png")
        print(f"{options.output / name}.png: {size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        sys.exit(f"pictures.py: {error}")
