"""What is measured of a text: lengths, words, scripts, duplicates, wrong decoding, the report."""
