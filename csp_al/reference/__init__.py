"""The reference method: calculators, retry ladder, and whether a label is sane."""
