"""Print the path of the libfuse3 that pyfuse3 works with here; fail if it cannot be loaded."""

import glob
import os
import re
import sys

try:
    import pyfuse3  # noqa: F401
except ImportError as error:
    sys.exit(f"pyfuse3: {error}")

with open("/proc/self/maps") as maps:
    found = re.search(r"(/\S*/libfuse3\.so\.)\S+", maps.read())
if found is None:
    print(os.path.realpath(sys.executable))  # a libfuse3 of its own, then, that nobody takes away
else:
    # An update changes the name of the file (libfuse3.so.3.17.2), but not that of the link with one
    # number (libfuse3.so.4), by which pyfuse3 finds it.
    links = (name for name in glob.glob(f"{found[1]}*") if name[len(found[1]) :].isdecimal())
    print(next((link for link in links if os.path.samefile(link, found[0])), found[0]))
