"""Experiments on Hiera that anyone can repeat; docs/resolution.md says what they found."""
