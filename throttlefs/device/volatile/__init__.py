"""A disk that loses power: what of it has not reached the medium yet, and what a cut leaves.

Everything is pure. SRC gets each change at once; what is kept here says how to take it back.
"""
