"""Coverage-guided fuzzing (atheris) of every decoder: `make fuzz`, or `python -m tests.fuzz TARGET [OPTIONS]`.

OPTIONS are libFuzzer's. Each target runs FUZZ_SECONDS (600 unless set) from the seeds kept in tests/fuzz/seeds; what it
finds on the way is in build/fuzz/TARGET, an input that fails in build/fuzz/TARGET-crash-…
"""

import os
import subprocess
import sys
from pathlib import Path

SEEDS, FOUND = Path(__file__).with_name("seeds"), Path("build/fuzz")
LARGEST = 4_096
UDFS = Path(__file__).parents[2] / "udfs"


def compiled_modules() -> list[str]:
    """Modules with loops compiled by numba, which takes no instrumented code."""
    return [f"udfs.{path.stem}" for path in UDFS.glob("*.py") if "from udfs.compiled import" in path.read_text("utf-8")]


def fuzz(target: str, options: list[str]) -> None:
    """Fuzz one target in this process; it does not return."""
    import atheris

    with atheris.instrument_imports(include=["udfs"], exclude=[*compiled_modules(), "udfs.compiled"]):
        from tests.fuzz.targets import TARGETS
    found = FOUND / target
    found.mkdir(parents=True, exist_ok=True)
    seconds = os.environ.get("FUZZ_SECONDS", "600")
    given = [
        f"-max_total_time={seconds}", f"-max_len={LARGEST}", "-timeout=20", "-rss_limit_mb=2048",
        f"-artifact_prefix={FOUND}/{target}-", "-print_final_stats=1", *options, str(found),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *given, *([str(SEEDS / target)] if (SEEDS / target).is_dir() else [])], TARGETS[target])
    atheris.Fuzz()


def fuzz_all() -> int:
    """All targets, one after the other, in processes of their own; how many failed."""
    from tests.fuzz.targets import TARGETS

    failed = [each for each in TARGETS if subprocess.run([sys.executable, "-m", "tests.fuzz", each]).returncode]
    print(f"{len(TARGETS)} targets, failed: {', '.join(failed) or 'none'}")
    return len(failed)


if __name__ == "__main__":
    sys.path += [str(SEEDS.parents[1]), str(SEEDS.parents[1] / "unit")]  # targets use what tests use
    if len(sys.argv) > 1:
        fuzz(sys.argv[1], sys.argv[2:])
    sys.exit(1 if fuzz_all() else 0)
