"""Experiments that anyone can repeat; docs/resolution.md and docs/swap.md say what they found."""
