"""Acoustic measurements: openSMILE feature sets, extraction in workers, merging."""
