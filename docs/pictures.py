r"""Copy the figures that the pages show from the folder of the demo, reduced in size and colours.

    python docs/pictures.py

Requires `make demo`, the commands of corpora.md (captions) and evaluation.md (confusion,
calibration), and that of the timeline, where joined.wav is six clips of RAVDESS, `TIMELINE`:

    python predict.py demo/joined.wav --windows 2 --hop 0.25 --smooth 0.75 --plot demo/timelines \
        --prompts angry happy sad --template "the speaker sounds {}"

page.png is a screenshot of `app.py --edges --features` (of EmoDB) at a width of 1280 pixels, with
the pointer over the curves: joined clips 15*N* (four) and 15*W* (five), 0.25 s of silence after
each.
"""

from pathlib import Path

from PIL import Image

DEMO = Path("demo")
PICTURES = Path(__file__).parent / "pictures"
SHOWN = {
    "captions": "captions.png",
    "confusion": "ravdess/ravdess.confusion.png",
    "calibration": "ravdess/ravdess.calibration.png",
    "timeline": "timelines/0000_joined.png",
}
TIMELINE = (
    *("03-01-05-02-01-01-23", "03-01-03-02-01-01-23", "03-01-04-02-01-01-23"),
    *("03-01-08-02-01-01-23", "03-01-05-02-02-01-23", "03-01-04-02-02-02-23"),
)
WIDTH = 1200  # px
COLOURS = 128


def shrink(source: Path, target: Path, colours: int = COLOURS) -> None:
    """Write a copy of at most `WIDTH` pixels in few colours, and print its size."""
    with Image.open(source) as picture:
        small = picture.convert("RGB")
    if small.width > WIDTH:
        small = small.resize((WIDTH, round(small.height * WIDTH / small.width)), Image.LANCZOS)
    few = small.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    for name, source in SHOWN.items():
        shrink(DEMO / source, PICTURES / f"{name}.png")
