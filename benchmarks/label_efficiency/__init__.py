"""What pre-training is worth with few labels: every start under the same conditions, over several seeds.

::

    python -m benchmarks.label_efficiency synthetic
    python -m benchmarks.label_efficiency real --data FOLDER    (kitti_object/ and kitti_raw/)
    python -m benchmarks.label_efficiency synthetic --table

The rows of the table are starts, its columns what is asked of them (`studies`). Every cell is one row, column and seed,
worked out by the same stages as the pipeline and kept as one small file below benchmarks/results/label_efficiency/, so
a stopped study goes on where it was, and `--table` needs these files alone. Data and weights lie under
build/label_efficiency.
"""
