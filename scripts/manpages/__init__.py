"""The man pages, made from the ``--help`` texts and from prose that only they need."""
