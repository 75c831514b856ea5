r"""Turn measured speech into words: eGeMAPS features -> low/normal/high levels -> pseudo-captions.

    python preprocessing/template_creation.py --preview 5
    python preprocessing/template_creation.py features.parquet -o captions.parquet --plot edges.png
    python preprocessing/template_creation.py features.parquet -o captions.parquet \
        --descriptors pitch,intensity,emotion --filter-emotions "no agreement",other \
        --validation-speakers 17,18 --test-speakers 21,22,23,24
    python preprocessing/template_creation.py ravdess.parquet emodb.parquet -o captions.parquet \
        --edges-by gender,corpus --templates paraclap extended
    python preprocessing/template_creation.py other.parquet -o other_captions.parquet \
        --edges captions.edges.json
    python preprocessing/template_creation.py --dump-templates > my.yaml
    python preprocessing/template_creation.py features.parquet -o out.parquet --templates my.yaml

A measured descriptor (pitch, intensity, ...) is "low" at or below the 0.3 quantile of the training
rows, "high" at or above the 0.7 quantile and "normal" between. A label (emotion, gender) is worded
as it stands. What is undefined -- NaN, voice measures of an unvoiced clip, a column that does not
vary -- gets no phrase.

With --edges-by the quantiles are those of each group, and the phrases say so: "pitch is high for a
woman". Durations are never compared like that, ratings within a corpus only (`edges_by` in the
templates). Where the group is unknown or has fewer than 10 values, there is no phrase.

The input is one or several tables of features.py, or folders of such tables: index file/start/end,
label columns, eGeMAPSv02 functionals under openSMILE's names and Duration in seconds. If there is
a column `split`, the edges are fitted on its "train" rows, else on all rows. Several tables get a
column `corpus`, unless they have one. A row that stands twice (same file, start, end and corpus)
is refused.

The output holds, per row: the label columns, one column <descriptor>_level each, `captions` (every
phrase that holds, the first wording of a descriptor before its paraphrases) and
`caption_descriptors` (the descriptor of each phrase). The edges go beside it as <stem>.edges.json;
they, the templates and the metadata of the input are also in the file's metadata.

Tables of any length are read in batches. Edges are exact: one column at a time is held, so memory
grows by some 20 bytes per row, whatever the number of columns (10 million rows: about 0.5 GB).
"""

from collections.abc import Sequence

if __package__:  # run by -m or imported: the repository is on the path
    from .captioning import command
else:  # run by path: this folder is on the path
    from captioning import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0 only if everything asked for was done."""
    return command.main(arguments, __doc__)


if __name__ == "__main__":
    raise SystemExit(main())
