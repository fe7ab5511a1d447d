"""One limit over several hosts: daemons that share a group's limits through a Valkey server.

`store.lua` runs in the server and shares the limits out. `keeper.py` has the rules of a daemon,
without I/O. `client.py` speaks to the server, `member.py` joins the three.
"""
