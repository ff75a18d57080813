"""Fewer bits a weight: casts to half precision, 8-bit floats, integers of 8 bits and less, NormalFloat, three values.

What a host does anyway to serve a model cheaply, hence the attack that costs a thief least: a cast is free and
int8 rounding cannot be told from the original in use. Integer forms come simulated (codes turned back into
weights, as a serving engine computes with them) and, for int8, as the codes and scales that lie on a disk.

Rounding is to nearest, without calibration data; GPTQ and AWQ, which need data, are in `calibrated`.
"""

from __future__ import annotations

import torch

from watermark.attacks.interface import State, by_name, each_target, is_target
from watermark.errors import InputError

# The 16 values of NormalFloat4: Dettmers et al., "QLoRA" (2023), appendix E.
NF4_VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
NF4_BLOCK = 64

FP8 = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}

SCALE_SUFFIX = ".scale"


def to_bf16(state: State) -> State:
    """Cast every float tensor, of any number of dimensions, to bfloat16.

    Costs the thief nothing: 8 bits of significand are what most models are trained in.
    """
    return {name: _cast(tensor, torch.bfloat16) for name, tensor in state.items()}


def to_fp16(state: State) -> State:
    """Cast every float tensor, of any number of dimensions, to IEEE half precision.

    Values beyond 65,504 are clamped to it, as converters do, since an infinity would break the model. Costs
    the thief nothing on models whose weights are of ordinary size.
    """
    return {name: _cast(tensor, torch.float16) for name, tensor in state.items()}


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor.detach().clone()
    # 8-bit floats have no arithmetic of their own in torch.
    wide = tensor.detach().to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)
    limit = torch.finfo(dtype).max
    return wide.clamp(-limit, limit).to(dtype)


def fp8(state: State, form: str) -> State:
    """Round each target to an 8-bit float, `e4m3` or `e5m2`, scaled so that its largest weight is the largest of these.

    The form in which new accelerators compute; costs the thief next to nothing with e4m3, a little more with e5m2
    (Micikevicius et al., "FP8 Formats for Deep Learning", 2022).

    Raises:
        InputError: no 8-bit float has that name.
    """
    dtype = by_name(FP8, form, what="8-bit float")

    def change(_name: str, rows: torch.Tensor) -> torch.Tensor:
        scale = rows.abs().max() / torch.finfo(dtype).max
        return rows if scale == 0 else (rows / scale).to(dtype).to(rows.dtype) * scale

    return each_target(state, change)


def ternary(state: State) -> State:
    """Round each row to three values: zero, and one magnitude with either sign.

    Weights below 0.7 of the row's mean magnitude become zero, the others the mean magnitude of those that stay (Li
    et al., "Ternary Weight Networks", 2016). Ruins most models that were not trained for it.
    """

    def change(_name: str, rows: torch.Tensor) -> torch.Tensor:
        size = rows.abs()
        stays = size > 0.7 * size.mean(dim=1, keepdim=True)
        level = (size * stays).sum(dim=1, keepdim=True) / stays.sum(dim=1, keepdim=True).clamp_min(1)
        return rows.sign() * stays * level

    return each_target(state, change)


def int8_per_channel(state: State) -> State:
    """Round each row to 255 evenly spaced values, symmetric about zero; the scale is the row's largest magnitude / 127.

    Costs the thief almost nothing: the usual weight-only int8 of serving engines (Jacob et al., CVPR 2018).
    """

    def change(_name: str, rows: torch.Tensor) -> torch.Tensor:
        codes, scale = _int8(rows)
        return codes * scale[:, None]

    return each_target(state, change)


def int8_codes(state: State) -> State:
    """Replace each target by its int8 codes and add the scales of its rows as the float32 vector `NAME.scale`.

    Codes times scales are what `int8_per_channel` gives in float32. The form in which a quantised model ships: no
    float matrix is left to test.

    Raises:
        InputError: a tensor already has the name of a scale.
    """
    quantised: State = {}
    for name, tensor in state.items():
        if not is_target(tensor):
            quantised[name] = tensor.detach().clone()
            continue
        if name + SCALE_SUFFIX in state:
            raise InputError(
                f"{name + SCALE_SUFFIX!r} exists already, so the scales of {name!r} have no name",
                hint="rename that tensor, or quantise the unquantised model",
            )
        codes, scale = _int8(tensor.detach().float().reshape(tensor.shape[0], -1))
        quantised[name] = codes.to(torch.int8).reshape(tensor.shape)
        quantised[name + SCALE_SUFFIX] = scale
    return quantised


def _int8(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes from -127 to 127, still as floats, and one scale a row; a row of zeros has scale 1."""
    scale = rows.abs().amax(dim=1) / 127
    scale[scale == 0] = 1.0
    return (rows / scale[:, None]).round().clamp(-127, 127), scale


def integer_groups(state: State, bits: int, group: int = 128) -> State:
    """Round each run of `group` weights of a row to 2^bits evenly spaced values from its smallest to its largest.

    The last run of a row may be shorter. Round to nearest with a zero point, as in the baselines of GPTQ
    (Frantar et al., ICLR 2023). The fewer bits, the dearer: 4 cost little, 2 ruin most models unless repaired.
    """
    if not 1 <= bits <= 8 or group < 1:
        raise InputError(
            f"cannot quantise to {bits} bits in groups of {group}", hint="use 1 to 8 bits and a group of at least 1"
        )

    return each_target(state, lambda _name, rows: round_groups(rows, bits, group))


def round_groups(rows: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """One matrix of `integer_groups`."""
    width = rows.shape[1]
    padding = -width % group
    if padding:
        # Repeating the row's last weight leaves smallest and largest of its last group as they are.
        rows = torch.cat([rows, rows[:, -1:].expand(-1, padding)], dim=1)
    groups = rows.reshape(-1, group)
    low, high = groups.aminmax(dim=1, keepdim=True)
    step = (high - low) / ((1 << bits) - 1)
    step[step == 0] = 1.0
    rounded = ((groups - low) / step).round() * step + low
    return rounded.reshape(rows.shape)[:, :width]


def int4_groups(state: State, group: int = 128) -> State:
    """Round each run of `group` weights of a row to 16 evenly spaced values; costs the thief a little quality.

    The usual form of a model on a laptop; see `integer_groups`.
    """
    return integer_groups(state, bits=4, group=group)


def nf4(state: State) -> State:
    """Round each run of 64 weights to the 16 values of NormalFloat4, times the run's largest magnitude.

    Runs cross rows, as in bitsandbytes. Costs less quality than 4-bit integers of the same group (Dettmers et
    al., "QLoRA", 2023, appendix E); the second quantisation, of the scales, is left out.
    """

    def change(_name: str, rows: torch.Tensor) -> torch.Tensor:
        values = torch.tensor(NF4_VALUES, dtype=rows.dtype)
        midpoints = (values[1:] + values[:-1]) / 2
        flat = rows.reshape(-1)
        padded = torch.nn.functional.pad(flat, (0, -flat.numel() % NF4_BLOCK))
        blocks = padded.reshape(-1, NF4_BLOCK)
        scale = blocks.abs().amax(dim=1, keepdim=True)
        scale[scale == 0] = 1.0
        rounded = values[torch.bucketize(blocks / scale, midpoints)] * scale
        return rounded.reshape(-1)[: flat.numel()]

    return each_target(state, change)
