"""Feature sets: parts of the component graph of eGeMAPSv02, see `egemaps`."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class FeatureSet:
    """Part of the component graph of eGeMAPSv02.

    Attributes:
        about: one line for `--help`
        changes: component -> key -> value that replaces the one of eGeMAPSv02
    """

    about: str
    changes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


MEANS_ONLY = {"functionalsEnabled": "Moments", "Moments.stddevNorm": "0"}
"""Functionals without percentiles, peaks, slopes and variation."""
FEATURE_SETS = {
    "egemaps": FeatureSet("all 88 functionals of eGeMAPSv02"),
    "captions": FeatureSet(
        "the 6 functionals of the default templates, 2.5 times as fast",
        {
            "egemapsv02_lldSetSelectorNoF0LoudnNz": {
                "reader.dmLevel": "gemapsv01b_jitterShimmer",
                "selected": "jitterLocal;shimmerLocalDB",
                "newNames": "jitterLocal;shimmerLocaldB",
            },
            "gemapsv01b_functionalsF0": {"functionalsEnabled": "Moments"},
            "gemapsv01b_functionalsLoudness": MEANS_ONLY,
            "egemapsv02_functionalsMVRVoiced": {
                "reader.dmLevel": "egemapsv02_lldSetNoF0AndLoudnessNz_smo",
                **MEANS_ONLY,
            },
            "funcconcat": {
                "reader.dmLevel": "gemapsv01b_functionalsF0;gemapsv01b_functionalsLoudness;"
                "egemapsv02_functionalsMeanStddevVoiced;egemapsv02_leq",
            },
        },
    ),
    "captions-extended": FeatureSet(
        "the 14 functionals of the extended templates",
        {
            "gemapsv01b_harmonics": {
                "harmonicDifferences": "H1-H2",
                "formantAmplitudes": "0",
            },
            "egemapsv02_lldSetSelectorNoF0LoudnNz": {
                "reader.dmLevel": "gemapsv01b_jitterShimmer;gemapsv01b_harmonics",
                "selected": "jitterLocal;shimmerLocalDB;HarmonicsToNoiseRatioACFLogdB;"
                "HarmonicDifferenceLogRelH1-H2",
                "newNames": "jitterLocal;shimmerLocaldB;HNRdBACF;logRelF0-H1-H2",
            },
            "egemapsv02_logSpectralVoiced": {
                "reader.dmLevel": "gemapsv01b_lld_single_logF0;gemapsv01b_logSpectral",
            },
            "egemapsv02_lldSetSelectorSpectralNz": {
                "selected": "pcm_fftMag_alphaRatioDB;pcm_fftMag_hammarbergIndexDB",
                "newNames": "alphaRatioV;hammarbergIndexV",
            },
            "gemapsv01b_functionalsF0": {"functionalsEnabled": "Moments"},
            "gemapsv01b_functionalsLoudness": {"functionalsEnabled": "Moments"},
            "egemapsv02_functionalsMVRVoiced": MEANS_ONLY,
            "gemapsv01b_temporalSetNames": {
                "selected": "loudness_sma3_numPeaks;F0semitoneFrom27.5Hz_sma3nz_meanSegLen;"
                "F0semitoneFrom27.5Hz_sma3nz__f0pause_meanSegLen",
                "newNames": "loudnessPeaksPerSec;MeanVoicedSegmentLengthSec;"
                "MeanUnvoicedSegmentLength",
            },
            "funcconcat": {
                "reader.dmLevel": "gemapsv01b_functionalsF0;gemapsv01b_functionalsLoudness;"
                "egemapsv02_functionalsMeanStddevVoiced;gemapsv01b_temporalSet;egemapsv02_leq",
            },
        },
    ),
}
"""Feature sets by name; both caption sets contain exactly the columns of their templates."""
