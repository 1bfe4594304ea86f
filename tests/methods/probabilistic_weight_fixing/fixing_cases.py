"""Fits that the tests of `pwfn` share."""

from __future__ import annotations

from fixing_fits import PWFN

METHOD, QUICK, fit = PWFN.method, PWFN.quick, PWFN.fit
