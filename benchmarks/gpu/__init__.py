"""What only a GPU can show, as one prepared script in parts that end by themselves.

::

    python -m benchmarks.gpu                          # all parts, in order
    python -m benchmarks.gpu correctness throughput   # some
    python -m benchmarks.gpu --tiny                   # small sizes: on a CPU, too

`correctness`: steps of both stages against those of the CPU, compiled ones against plain ones, resuming ·
`throughput`: samples a second, share of the card's peak, memory against the plan · `kernels`: where the step's time
goes · `loading`: whether the loader can feed that, and the cores it takes · `row`: starts side by side at ResNet-50.

Each part takes at most `--minutes`, writes what it has found after every finding to ``gpu_PART.json`` in `--out`, and
leaves out what it has no time for. The parts need neither MLflow nor S3: beside PyTorch 2.11 or newer, NumPy, SciPy,
numba, OpenCV, pyarrow, safetensors, timm, PyYAML and rich, the wheels of pydantic, pydantic-core, annotated-types,
typing-inspection, torch-quickfps and laspy are enough, as on a machine without a network.
"""
