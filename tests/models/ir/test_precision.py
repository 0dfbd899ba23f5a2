"""Which precisions a processor computes fast, by Linux's names of its features."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.ir.precision import instructions, supported


@pytest.mark.parametrize(
    ("flags", "fast"),
    [
        ("fpu sse2 avx avx2 fma", ()),
        ("avx2 avx512f avx512bw avx512_vnni", ("int8",)),  # Cascade Lake
        ("avx2 avx_vnni", ("int8",)),  # Alder Lake
        ("avx512f avx512_bf16 avx512_vnni", ("int8", "bfloat16")),  # Zen 4
        ("avx512f avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8", ("int8", "bfloat16")),
    ],
)
def test_what_a_processor_computes_fast(flags: str, fast: tuple[str, ...], tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: spectre_v1\n\nprocessor\t: 1\n")
    assert supported(instructions(cpuinfo)) == fast


def test_a_processor_that_says_nothing_computes_float32(tmp_path: Path) -> None:
    assert supported(instructions(tmp_path / "none")) == ()
    (tmp_path / "arm").write_text("processor : 0\nFeatures : fp asimd bf16 i8mm\n")
    assert supported(instructions(tmp_path / "arm")) == ()
