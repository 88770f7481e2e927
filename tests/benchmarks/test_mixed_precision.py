from benchmarks import mixed_precision


def test_table():
    times = {
        ("float32", "Keras"): [320.0, 640.0, 300.0],
        ("mixed_bfloat16", "fused"): [160.0, 160.0, 100.0],
    }
    first, second = mixed_precision.table(times, 32)
    assert (first["cpu_ms_per_image_median"], first["images_per_cpu_second"]) == (10.0, 100.0)
    assert (second["rate_to_float32_and_keras"], second["cpu_ms_per_image_min"]) == (2.0, 3.125)
