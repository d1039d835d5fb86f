"""Elementary functions of float32 that a loop over an array turns into vector instructions.

Polynomials over one octave or octant, fitted for the least relative error, which is said of each.
They are written in the order of Estrin: a processor works on several of their terms at once. Every
number is a float32 by name, since numba would take a float for a float64, and so the loop.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lensfinder.simulate.compiled.jit import element

Array = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]
f32 = np.float32
i32 = np.int32
# Loops count with these: a negative index counts from the end, and where LLVM can't rule one out it
# takes arrays for overlapping.
u64 = np.uint64

LN2 = f32(0.6931471805599453)
LOG2_E = f32(1.4426950408889634)
_EXP_0, _EXP_1, _EXP_2 = f32(1.00000000), f32(6.93147182e-01), f32(2.40226462e-01)
_EXP_3, _EXP_4, _EXP_5 = f32(5.55032864e-02), f32(9.61848907e-03), f32(1.33999309e-03)
_EXP_6 = f32(1.53458124e-04)
_LOG_0, _LOG_1, _LOG_2 = f32(1.0), f32(-0.49999988), f32(0.33333325)
_LOG_3, _LOG_4, _LOG_5 = f32(-0.25001585), f32(0.20001969), f32(-0.16609013)
_LOG_6, _LOG_7, _LOG_8 = f32(0.14181834), f32(-0.13243461), f32(0.12904663)
_LOG_9 = f32(-0.0762112)
_ATAN_0, _ATAN_1, _ATAN_2 = f32(1.0), f32(-0.33333072), f32(0.1999262)
_ATAN_3, _ATAN_4, _ATAN_5 = f32(-0.14203644), f32(0.10640934), f32(-0.07504294)
_ATAN_6, _ATAN_7, _ATAN_8 = f32(0.04269151), f32(-0.01606863), f32(0.00284989)
_SIN_0, _SIN_1, _SIN_2 = f32(6.28318548), f32(-41.34167862), f32(81.60223389)
_SIN_3, _SIN_4 = f32(-76.57498932), f32(39.71091843)
_COS_0, _COS_1, _COS_2 = f32(1.0), f32(-19.73920822), f32(64.93934631)
_COS_3, _COS_4, _COS_5 = f32(-85.45357513), f32(60.14401627), f32(-24.98223686)
_HALF_PI = f32(1.5707963267948966)
# Of an exponent: beyond them numbers are denormal or infinite.
_LOWEST, _HIGHEST = f32(-126), f32(127)
# The bits of the square root of a half, where an octave begins, and of an octave.
_OCTAVE_BEGINS, _MANTISSA, _BIAS = i32(0x3F3504F3), i32(23), i32(127)


@element
def exp2(x: f32) -> f32:
    """2 to the power of x, and of the nearest from -126 to 127; to 1e-7."""
    x = min(max(x, _LOWEST), _HIGHEST)
    whole = np.rint(x)
    r = x - whole
    r2 = r * r
    low, high = (_EXP_0 + _EXP_1 * r) + r2 * (_EXP_2 + _EXP_3 * r), _EXP_4 + _EXP_5 * r
    fraction = low + r2 * r2 * (high + r2 * _EXP_6)
    power: f32 = fraction * i32((i32(whole) + _BIAS) << _MANTISSA).view(f32)
    return power


@element
def _log1p_over(t: f32) -> f32:
    """ln(1 + t) / t, for 1 + t between the square roots of 1/2 and 2; to 6e-8."""
    t2 = t * t
    t4 = t2 * t2
    low = (_LOG_0 + _LOG_1 * t) + t2 * (_LOG_2 + _LOG_3 * t)
    high = (_LOG_4 + _LOG_5 * t) + t2 * (_LOG_6 + _LOG_7 * t)
    return low + t4 * (high + t4 * (_LOG_8 + _LOG_9 * t))


@element
def log2(x: f32) -> f32:
    """Logarithm to base 2 of a normal number above 0; to 1e-7 of it or of 1."""
    bits = f32(x).view(i32)
    octave = i32((bits - _OCTAVE_BEGINS) >> _MANTISSA)
    t = i32(bits - i32(octave << _MANTISSA)).view(f32) - f32(1)
    return f32(octave) + t * _log1p_over(t) * LOG2_E


@element
def log1p(x: f32) -> f32:
    """Natural logarithm of 1 + x, for x >= 0; to 2e-7 of it, however small."""
    bits = f32(f32(1) + x).view(i32)
    octave = i32((bits - _OCTAVE_BEGINS) >> _MANTISSA)
    t = i32(bits - i32(octave << _MANTISSA)).view(f32) - f32(1)
    t = x if octave == 0 else t
    return f32(octave) * LN2 + t * _log1p_over(t)


@element
def atan_of(y: f32, x: f32) -> f32:
    """Inverse tangent of y / x, for x > 0; to 2e-7."""
    size = abs(y)
    steep = size > x
    t = (x if steep else size) / (size if steep else x)
    z = t * t
    z2 = z * z
    low = (_ATAN_0 + _ATAN_1 * z) + z2 * (_ATAN_2 + _ATAN_3 * z)
    high = (_ATAN_4 + _ATAN_5 * z) + z2 * (_ATAN_6 + _ATAN_7 * z)
    angle = t * (low + z2 * z2 * (high + z2 * z2 * _ATAN_8))
    angle = _HALF_PI - angle if steep else angle
    return angle if y > 0 else -angle


@element
def normal_pair(first: i32, second: i32) -> tuple[f32, f32]:
    """Two standard normal numbers from 32 random bits each, as `noise.normals` has them."""
    uniform = max(f32(first) * f32(2.0**-32) + f32(0.5), f32(2.0**-33))
    radius = np.sqrt(f32(-2) * LN2 * log2(uniform))
    # Of a turn, from -1/2 to 1/2; then to the nearest quarter and what is left.
    turn = f32(second) * f32(2.0**-32)
    quarters = np.rint(turn * f32(4))
    t = turn - quarters * f32(0.25)
    z = t * t
    z2 = z * z
    sin = t * ((_SIN_0 + _SIN_1 * z) + z2 * ((_SIN_2 + _SIN_3 * z) + z2 * _SIN_4))
    cos = (_COS_0 + _COS_1 * z) + z2 * ((_COS_2 + _COS_3 * z) + z2 * (_COS_4 + _COS_5 * z))
    odd = abs(quarters) == f32(1)
    back = abs(quarters) == f32(2)
    # A quarter turn on: (c, s) becomes (-s, c); two of them change both signs.
    c = -quarters * sin if odd else (-cos if back else cos)
    s = quarters * cos if odd else (-sin if back else sin)
    return radius * c, radius * s
