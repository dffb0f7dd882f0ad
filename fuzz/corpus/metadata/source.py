"""A docstring with import nothing."""
from __future__ import annotations
import os, sys as system
from . import (_native, other as o,  # a comment
               third)
try:
    from ._fast import run
except (ImportError, OSError) as e:
    run = None
if system.platform == "linux" and not TYPE_CHECKING:
    import ctypes; x = f"{os.sep!r:>{10}}" r'\' b'''bytes
    over lines'''
def lazy():
    import never
class C(Base): import inside
with open(__file__) as f: pass
