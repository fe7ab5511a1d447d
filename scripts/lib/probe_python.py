"""Tell the installer about this interpreter; any Python since 2.7 can run this.

Prints the interpreter's own path (that of the base, if this is a virtual environment's) and
then, a line each, what it lacks to build the virtual environment: ``venv``, ``dev``.
Exits with status 3 and prints the version if it is too old or is not CPython.
"""

import os
import sys


def main():
    if sys.version_info < (3, 11) or sys.implementation.name != "cpython":
        print("%d.%d" % sys.version_info[:2])  # noqa: UP031
        sys.exit(3)
    print(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        print("venv")
    try:
        import sysconfig

        header = os.path.join(sysconfig.get_path("include"), "Python.h")
    except ImportError:
        header = ""
    if not os.path.exists(header):
        print("dev")


main()
