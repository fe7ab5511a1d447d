"""How many transactions SQLite commits in a second: python3 commits.py mnt/data.db"""

import sqlite3
import sys
import time

COMMITS = 200

database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA locking_mode=EXCLUSIVE")  # or WAL needs shared memory
database.execute("PRAGMA journal_mode=WAL")
database.execute("PRAGMA synchronous=FULL")  # an fsync for each commit
database.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY)")
begun = time.monotonic()
for _ in range(COMMITS):
    database.execute("INSERT INTO entries DEFAULT VALUES")
print(round(COMMITS / (time.monotonic() - begun)), "commits a second")
