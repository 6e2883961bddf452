"""The surroundings of a process that decide the last bits of its results, and that no configuration key describes.

The libraries below TensorFlow choose their kernels by the processor and by environment variables. Other kernels add in
another order or round differently. The run continues and is as good, but it is not the same run to the last bit. The
numbers of threads are not here: ``runtime.threads`` is configuration, and is stored with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import platform
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

INSTRUCTION_SET = "instruction set"
PROCESSOR = "processor"
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # oneDNN reads the second where the first is not set
# oneDNN's levels (its documentation, "CPU Dispatcher Control"), each with the features that the processor needs beyond
# those of the levels before, in the kernel's words
Levels = tuple[tuple[str, frozenset[str]], ...]
LEVELS: Levels = (
    ("SSE41", frozenset({"sse4_1"})),
    ("AVX", frozenset({"avx"})),
    ("AVX2", frozenset({"avx2", "fma"})),
    ("AVX512_CORE", frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"})),
    ("AVX512_CORE_VNNI", frozenset({"avx512_vnni"})),
    ("AVX512_CORE_BF16", frozenset({"avx512_bf16"})),
    ("AVX512_CORE_FP16", frozenset({"avx512_fp16"})),
    ("AVX512_CORE_AMX", frozenset({"amx_tile", "amx_int8", "amx_bf16"})),
    ("AVX512_CORE_AMX_FP16", frozenset({"amx_fp16"})),
)
# between AVX2 and AVX512_CORE, for processors that have no AVX-512
NARROW_LEVELS: Levels = (
    ("AVX2_VNNI", frozenset({"avx_vnni"})),
    ("AVX2_VNNI_2", frozenset({"avx_vnni_int8", "avx_ne_convert"})),
)
ARM = ("asimd", "asimddp", "bf16", "i8mm", "sve", "sve2", "svebf16", "sme")
# Prefixes and names of what computing libraries read: oneDNN, XLA, cuDNN, cuBLAS, TensorFlow's choice of kernels.
VARIABLE = re.compile(
    r"(ONEDNN|DNNL|XLA|CUDNN|CUBLAS|NVIDIA_TF32|TF_(XLA|CUDNN|CUBLAS|FP16|CPU|CUDA|GPU|ENABLE|DISABLE|USE|DETERMINISTIC))_\w+"
)
ONLY_TELLS = re.compile(r"VERBOSE|LOG|DUMP|PROFILE|CACHE|ALLOCATOR|THREAD_(MODE|COUNT)|VISIBLE|MALLOC")
# flags of XLA that this program sets, or that only decide where files go
OTHER_FLAGS = re.compile(r"--(tf_xla_persistent_cache\w*|xla_dump\w*|xla_gpu_deterministic_ops)(=.*)?")


def of_process(variables: Mapping[str, str], processor: str) -> dict[str, str]:
    """Processor, instruction set in use, and the environment variables that decide kernels, by name; unset ones are
    left out. ``processor`` is the text of /proc/cpuinfo, empty where it does not exist.
    """
    found = {PROCESSOR: _model(processor), INSTRUCTION_SET: _instruction_set(_features(processor), variables)}
    for name in sorted(variables):
        value = _meaning(variables[name]) if VARIABLE.fullmatch(name) and not ONLY_TELLS.search(name) else ""
        if value and name not in LIMITS:
            found[name] = value
    return found


def cpuinfo() -> str:
    """The kernel's description of the processor, empty where there is none."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def cudnn() -> str | None:
    """The version of the cuDNN that this process has loaded, in cuDNN's own form (91002); None without cuDNN."""
    try:
        loaded = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    files = {line.split(maxsplit=5)[-1] for line in loaded if "/libcudnn.so" in line}
    for file in sorted(files):
        with contextlib.suppress(OSError, AttributeError):  # deleted meanwhile, or another library of that name
            ask = ctypes.CDLL(file).cudnnGetVersion
            ask.restype = ctypes.c_size_t
            return str(ask())
    return None


def differences(stored: Mapping[str, str], current: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    """What differs: name, value before, value now, and how to restore the value before, or an empty text.

    Empty where one side has no instruction set: an older program wrote it, which recorded none of these.
    """
    if INSTRUCTION_SET not in stored or INSTRUCTION_SET not in current:
        return []
    names = dict.fromkeys(name for name in (*stored, *current) if _is_known(name))
    return [
        (name, stored.get(name, "not set"), current.get(name, "not set"), _remedy(name, stored, current))
        for name in names
        if stored.get(name) != current.get(name)
    ]


def _is_known(name: str) -> bool:
    return name in (PROCESSOR, INSTRUCTION_SET) or VARIABLE.fullmatch(name) is not None


def _remedy(name: str, stored: Mapping[str, str], current: Mapping[str, str]) -> str:
    levels = [level for level, _ in _levels()]
    if name == PROCESSOR:
        return ""
    if name == INSTRUCTION_SET:
        before, now = stored[name], current[name]
        lower = before in levels and now in levels and levels.index(before) < levels.index(now)
        return f"export {LIMITS[0]}={before}" if lower else ""
    return f"export {name}={shlex.quote(stored[name])}" if name in stored else f"unset {name}"


def _levels() -> Levels:
    """All levels, lowest first."""
    return (*LEVELS[:3], *NARROW_LEVELS, *LEVELS[3:])


def _instruction_set(features: frozenset[str], variables: Mapping[str, str]) -> str:
    """The highest level that the processor has and the variables allow; on other architectures, the features."""
    if "sse4_1" not in features:
        return " ".join(name for name in ARM if name in features) or platform.machine()
    limit = next((variables[name].upper() for name in LIMITS if variables.get(name)), "")
    allowed = [level for level, _ in _levels()]
    if limit in allowed:
        allowed = allowed[: allowed.index(limit) + 1]
    there = _there(LEVELS, features)
    if "AVX2" in there:
        there += _there(NARROW_LEVELS, features)
    return max((level for level in there if level in allowed), key=allowed.index, default=LEVELS[0][0])


def _there(levels: Levels, features: frozenset[str]) -> list[str]:
    """The levels from the first to the last one whose features are all present."""
    whole = itertools.takewhile(lambda level: level[1] <= features, levels)
    return [name for name, _ in whole]


def _features(processor: str) -> frozenset[str]:
    found = re.search(r"^(flags|Features)\s*:(.*)$", processor, re.MULTILINE)
    return frozenset(found[2].split()) if found else frozenset()


def _model(processor: str) -> str:
    found = re.search(r"^model name\s*:\s*(.+?)\s*$", processor, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _meaning(value: str) -> str:
    """A variable's value, without flags that do not affect results, as text that any file can hold."""
    kept = [flag for flag in value.split() if not OTHER_FLAGS.fullmatch(flag)]
    return " ".join(kept).encode("utf-8", "backslashreplace").decode()
