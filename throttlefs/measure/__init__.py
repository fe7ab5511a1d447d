"""Makes a profile of a real disk: from what fio measures here, or measured elsewhere."""
