"""What of the surroundings decides the last bits: found, compared, and explained by what makes it as it was."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.fingerprint import surroundings
from trainer.fingerprint.surroundings import differences, of_process
from trainer.fingerprint.verdict import version_warnings, worker_differences, worker_warnings

SERVER = "avx avx2 fma avx512f avx512bw avx512vl avx512dq avx512_vnni avx512_bf16 avx_vnni sse4_1"


def processor(flags: str, model: str = "Example 9000") -> str:
    return f"processor\t: 0\nmodel name\t: {model}\nflags\t\t: fpu {flags} ht\n\nprocessor\t: 1\n"


@pytest.mark.parametrize(
    ("flags", "limit", "expected"),
    [
        ("sse4_1", {}, "SSE41"),
        ("sse4_1 avx", {}, "AVX"),
        ("sse4_1 avx avx2 fma", {}, "AVX2"),
        ("sse4_1 avx avx2 fma avx_vnni", {}, "AVX2_VNNI"),
        (SERVER, {}, "AVX512_CORE_BF16"),
        (f"{SERVER} avx512_fp16 amx_tile amx_int8 amx_bf16", {}, "AVX512_CORE_AMX"),
        (f"{SERVER} amx_tile amx_int8 amx_bf16", {}, "AVX512_CORE_BF16"),
        (SERVER, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "AVX512_CORE"),
        (SERVER, {"ONEDNN_MAX_CPU_ISA": "avx2"}, "AVX2"),
        (SERVER, {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI_2"}, "AVX2_VNNI"),
        (SERVER, {"DNNL_MAX_CPU_ISA": "SSE41"}, "SSE41"),
        (SERVER, {"ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "SSE41"}, "AVX2"),
        (SERVER, {"ONEDNN_MAX_CPU_ISA": "DEFAULT"}, "AVX512_CORE_BF16"),
        ("sse4_1 avx", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "AVX"),
    ],
)
def test_the_instruction_set_in_use_is_the_processors_up_to_the_limit(
    flags: str, limit: dict[str, str], expected: str
) -> None:
    assert of_process(limit, processor(flags)) == {"processor": "Example 9000", "instruction set": expected}


def test_other_architectures_have_their_features_and_no_text_is_required() -> None:
    arm = "processor : 0\nFeatures : fp asimd sve bf16 crc32\n"
    assert of_process({}, arm)["instruction set"] == "asimd bf16 sve"
    assert all(of_process({}, "").values())


def test_variables_that_choose_kernels_are_noted_and_no_others() -> None:
    deciding = {
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
        "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
        "XLA_FLAGS": "--xla_cpu_enable_fast_math=true",
        "NVIDIA_TF32_OVERRIDE": "0",
        "TF_CUDNN_USE_AUTOTUNE": "0",
        "TF_DETERMINISTIC_OPS": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    others = {
        "HOME": "/root",
        "TF_CONFIG": "{}",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "ONEDNN_VERBOSE": "1",
        "TF_GPU_ALLOCATOR": "cuda_malloc_async",
        "TF_GPU_THREAD_MODE": "gpu_private",
        "TF_ENABLE_NOTHING": "",
        "AWS_SECRET_ACCESS_KEY": "x",
    }
    found = of_process({**deciding, **others}, processor(SERVER))
    assert {name: found[name] for name in found if name not in ("processor", "instruction set")} == deciding


def test_flags_that_this_program_sets_or_that_only_say_where_files_go_are_left_out() -> None:
    variables = {
        "XLA_FLAGS": "--xla_gpu_deterministic_ops=true --xla_dump_to=/tmp/x",
        "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_persistent_cache_directory=/home/x",
    }
    found = of_process(variables, processor(SERVER))
    assert "XLA_FLAGS" not in found
    assert found["TF_XLA_FLAGS"] == "--tf_xla_auto_jit=2"


def test_a_value_that_is_not_utf_8_can_be_stored() -> None:
    found = of_process({"XLA_FLAGS": "--x=\udcff"}, processor(SERVER))
    assert json.loads(json.dumps(found, ensure_ascii=False).encode()) == found


def test_each_difference_is_one_line_with_both_values_and_what_makes_it_as_it_was() -> None:
    stored = of_process({"TF_XLA_FLAGS": "--a --b"}, processor("sse4_1 avx avx2 fma"))
    current = of_process({"NVIDIA_TF32_OVERRIDE": "0"}, processor(SERVER, "Other 1"))
    assert version_warnings(stored, current) == [
        f"{difference}: training goes on, but bit-exactness is not promised{remedy}"
        for difference, remedy in (
            ("processor was Example 9000 and is Other 1", ""),
            ("instruction set was AVX2 and is AVX512_CORE_BF16", "; as it was: export ONEDNN_MAX_CPU_ISA=AVX2"),
            ("TF_XLA_FLAGS was --a --b and is not set", "; as it was: export TF_XLA_FLAGS='--a --b'"),
            ("NVIDIA_TF32_OVERRIDE was not set and is 0", "; as it was: unset NVIDIA_TF32_OVERRIDE"),
        )
    ]
    (back, *_) = [line for line in version_warnings(current, stored) if line.startswith("instruction set")]
    assert back.endswith("not promised"), "what the processor lacks, no variable brings"


def test_what_an_older_program_did_not_note_does_not_differ() -> None:
    now = of_process({"TF_ENABLE_ONEDNN_OPTS": "0"}, processor(SERVER))
    assert differences({"tensorflow": "2.21.0"}, now) == []
    assert differences(now, {"tensorflow": "2.21.0"}) == []
    assert differences(now, now) == []


def test_a_worker_on_another_processor_says_so_once_and_a_worker_like_the_chief_says_nothing() -> None:
    common = {
        "tensorflow": "2.21.0",
        "keras": "3.15.1",
        "numpy": "2.0",
        "device": "cpu",
        "replicas": "2 in 2 processes",
    }
    chief = {**common, **of_process({}, processor(SERVER))}
    other = {**common, **of_process({"ONEDNN_MAX_CPU_ISA": "AVX2"}, processor(SERVER))}
    assert worker_warnings(1, chief, chief) == []
    assert worker_warnings(1, chief, other) == [
        "instruction set is AVX2 in worker 1 and AVX512_CORE_BF16 in the chief: with another placement of the "
        "processes the last bits differ"
    ]


def test_this_machine_has_an_instruction_set() -> None:
    found = of_process({}, surroundings.cpuinfo())
    assert found["processor"]
    assert found["instruction set"]


def test_the_version_of_cudnn_is_that_of_the_library_that_is_loaded(tmp_path: Path) -> None:
    """A process of its own, for what is loaded stays."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, library = tmp_path / "cudnn.c", tmp_path / "libcudnn.so.9"
    source.write_text("unsigned long cudnnGetVersion(void) { return 91002; }\n")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    program = (
        "import ctypes; from trainer.fingerprint import surroundings as s; before = s.cudnn(); "
        f"ctypes.CDLL({str(library)!r}); print(before, s.cudnn())"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == (
        "None 91002\n"
    )


def test_a_process_with_another_library_for_its_gpu_or_another_plug_in_differs_from_its_chief() -> None:
    chief = {"device": "cpu", "plug-in trainer.models small": "small 1.0"}
    gpu = {**chief, "device": "Example", "cuDNN": "91002", "TensorFloat-32": "on"}
    assert worker_differences(chief, gpu) == [], "a chief needs no GPU"
    assert worker_differences(gpu, {**gpu, "cuDNN": "90100"}) == ["cuDNN: 90100; the chief has: 91002"]
    assert worker_differences(gpu, {**gpu, "TensorFloat-32": "off"}) == ["TensorFloat-32: off; the chief has: on"]
    other = {**chief, "plug-in trainer.models small": "small 1.1"}
    assert worker_differences(chief, other) == ["plug-in trainer.models small: small 1.1; the chief has: small 1.0"]
