"""The demo: a detector and a segmenter with Hiera inside, from nothing to pictures."""
